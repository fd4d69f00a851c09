//! The report as one page: TTFB and RTF against the level, the target's lines, and the limit that was found. Readable
//! without a network: its style and its pictures are in it, and it has no scripts.

use std::fmt::{self, Display, Write as _};

use super::report::{LevelReport, Report};
use super::sample::Figures;
use crate::target::{Clause, Target};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 40.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#6a737d;--grid:#d8dee4;--paper:#fff;--p50:#2f81c7;--p90:#7a5cc4;--p99:#c2410c;--aim:#b91c1c;--found:#15803d}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--grid:#30363d;--paper:#0d1117;--p50:#58a6ff;--p90:#b392f0;--p99:#ff9b5e;--aim:#ff7b72;--found:#56d364}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:800px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}.big{font-size:1.2rem}\
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:var(--soft)}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:right;padding:.2rem .5rem;border-bottom:1px solid var(--grid)}\
th:last-child,td:last-child{text-align:left}.met{color:var(--found)}.missed{color:var(--aim)}.soft{color:var(--soft)}";

/// The page of a run.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a>(pub &'a Report);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>rime-gate bench</title><style>{STYLE}</style></head>\n<body>\n<h1>rime-gate bench</h1>\n\
             <p class=\"big\" id=\"verdict\">{}</p>\n<p class=\"soft\">{} &middot; target {} &middot; confidence {} &middot; rime-gate {}</p>\n",
            Escaped(&headline(report)),
            Escaped(&report.url),
            report.target,
            report.confidence,
            report.version
        )?;
        let ttfb = Chart {
            id: "ttfb",
            title: "TTFB, seconds",
            of: |level| &level.ttfb_seconds,
            aim: aim(&report.target, "ttfb"),
        };
        let rtf = Chart { id: "rtf", title: "RTF", of: |level| &level.rtf, aim: aim(&report.target, "rtf") };
        for chart in [ttfb, rtf] {
            chart.draw(f, report)?;
        }
        table(f, report)?;
        f.write_str("</body></html>\n")
    }
}

/// The result in a sentence.
fn headline(report: &Report) -> String {
    let unit = unit(report);
    let mut text = match (report.max_concurrency, report.levels.as_slice()) {
        (Some(limit), _) => format!("Limit: {limit} {unit}."),
        (None, [level]) => match level.met {
            Some(true) => format!("{} {unit} keep the target.", level.level),
            Some(false) => format!("{} {unit} do not keep the target.", level.level),
            None => format!("Whether {} {unit} keep the target was not decided.", level.level),
        },
        (None, _) => "No level keeps the target for certain.".to_owned(),
    };
    if let Some(by) = report.bound_by {
        let certain = if report.bound_certain == Some(true) { "" } else { ", which could not be decided," };
        let _ = write!(text, " Bound by {by}{certain}.");
    }
    if let Some(latency) = report.initial_latency_seconds {
        let _ = write!(text, " Initial latency: {:.0} ms.", latency * 1_000.0);
    }
    text
}

fn unit(report: &Report) -> String {
    match (report.load, report.rate_per_second) {
        (_, Some(rate)) => format!("({rate} a second)"),
        ("sessions", _) => "sessions".to_owned(),
        _ => "in flight".to_owned(),
    }
}

fn aim(target: &Target, label: &str) -> Option<f64> {
    let clause = target.clauses().find(|clause| clause.label() == label)?;
    match clause {
        Clause::Ttfb { at_most, .. } => Some(at_most.as_secs_f64()),
        Clause::Rtf { at_most, .. } => Some(*at_most),
        _ => None,
    }
}

/// One picture: percentiles against the level.
struct Chart {
    id: &'static str,
    title: &'static str,
    of: fn(&LevelReport) -> &Figures,
    aim: Option<f64>,
}

type Percentile = (&'static str, fn(&Figures) -> Option<f64>);
const PERCENTILES: [Percentile; 3] =
    [("p50", |figures| figures.p50), ("p90", |figures| figures.p90), ("p99", |figures| figures.p99)];

impl Chart {
    fn draw(&self, f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
        let levels = &report.levels;
        let right = levels.iter().map(|level| f64::from(level.level)).fold(1.0, f64::max);
        let highest = levels.iter().filter_map(|level| (self.of)(level).p99).fold(0.0, f64::max);
        let top = nice(highest.max(self.aim.unwrap_or(0.0)) * 1.1);
        let x = |level: f64| LEFT + (WIDTH - LEFT - RIGHT) * level / right;
        let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value / top).min(1.0);
        writeln!(
            f,
            "<h2>{}</h2>\n<svg id=\"{}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by level\">",
            self.title, self.id, self.title
        )?;
        for step in 0..=4 {
            let value = top * f64::from(step) / 4.0;
            let at = y(value);
            writeln!(
                f,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"var(--grid)\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.2}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0
            )?;
        }
        self.ticks(f, report, x)?;
        if let Some(aim) = self.aim {
            let at = y(aim);
            writeln!(
                f,
                "<line class=\"target\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"var(--aim)\" \
                 stroke-width=\"1.5\" stroke-dasharray=\"6 4\"/><text x=\"{:.1}\" y=\"{:.1}\">target</text>",
                WIDTH - RIGHT,
                WIDTH - RIGHT + 6.0,
                at + 4.0
            )?;
        }
        for (name, value) in PERCENTILES {
            let points: Vec<(f64, f64)> = levels
                .iter()
                .filter_map(|level| Some((x(f64::from(level.level)), y(value((self.of)(level))?))))
                .collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            writeln!(
                f,
                "<polyline class=\"{name}\" points=\"{}\" fill=\"none\" stroke=\"var(--{name})\" stroke-width=\"2\"/>",
                path.join(" ")
            )?;
            for (x, y) in &points {
                write!(f, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"var(--{name})\"/>")?;
            }
        }
        self.key(f)?;
        f.write_str("</svg>\n")
    }

    fn ticks(&self, f: &mut fmt::Formatter<'_>, report: &Report, x: impl Fn(f64) -> f64) -> fmt::Result {
        let mut last = f64::NEG_INFINITY;
        for level in &report.levels {
            let at = x(f64::from(level.level));
            // Labels that would lie upon each other are left out; the limit has one of its own.
            if at - last >= 24.0 && report.max_concurrency != Some(level.level) {
                last = at;
                writeln!(
                    f,
                    "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    HEIGHT - BOTTOM + 16.0,
                    level.level
                )?;
            }
        }
        if let Some(limit) = report.max_concurrency {
            let at = x(f64::from(limit));
            writeln!(
                f,
                "<line class=\"limit\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"var(--found)\" \
                 stroke-width=\"1.5\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">limit {limit}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 32.0
            )?;
        }
        Ok(())
    }

    fn key(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((name, _), at) in PERCENTILES.iter().zip([0.0, 52.0, 104.0]) {
            let x = LEFT + 12.0 + at;
            write!(
                f,
                "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"var(--{name})\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
                TOP + 8.0,
                x + 8.0,
                TOP + 12.0
            )?;
        }
        Ok(())
    }
}

/// The next of 1, 2, 2.5, 4 or 5 times a power of ten.
fn nice(value: f64) -> f64 {
    let value = value.max(1e-3);
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 4.0, 5.0, 10.0];
    steps.iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(10.0 * power)
}

fn table(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    writeln!(
        f,
        "<h2>Levels</h2>\n<table><thead><tr><th>level<th>samples<th>success<th>TTFB p50<th>TTFB p99<th>RTF p50\
         <th>RTF p99<th>underrun<th>verdict</tr></thead><tbody>"
    )?;
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    for level in &report.levels {
        let (class, verdict) = match level.met {
            Some(true) => ("met", "met".to_owned()),
            Some(false) => ("missed", format!("missed: {}", clauses(level, Some(false)))),
            None if level.clauses.iter().all(|clause| clause.met.is_none()) => ("soft", "open".to_owned()),
            None => ("soft", format!("open: {}", clauses(level, None))),
        };
        writeln!(
            f,
            "<tr><td>{}<td>{}<td>{:.3}<td>{}<td>{}<td>{}<td>{}<td>{:.3}<td class=\"{class}\">{}</tr>",
            level.level,
            level.samples,
            level.success,
            figure(level.ttfb_seconds.p50),
            figure(level.ttfb_seconds.p99),
            figure(level.rtf.p50),
            figure(level.rtf.p99),
            level.underrun,
            Escaped(&verdict)
        )?;
    }
    f.write_str("</tbody></table>\n<p class=\"soft\">An open level was only glanced at on the way, or more syntheses would be needed.</p>\n")
}

fn clauses(level: &LevelReport, met: Option<bool>) -> String {
    let found = level.clauses.iter().filter(|clause| clause.met == met).map(|clause| clause.clause.as_str());
    found.collect::<Vec<_>>().join(", ")
}

/// Text that is no markup.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_that_hold_the_value() {
        for (value, end) in [(0.3, 0.4), (1.0, 1.0), (1.1, 2.0), (2.2, 2.5), (7.0, 10.0), (0.0, 0.001)] {
            assert!((nice(value) - end).abs() < 1e-9, "{value}: {}", nice(value));
        }
    }

    #[test]
    fn what_an_operator_typed_is_no_markup() {
        assert_eq!(Escaped("<script>&\"").to_string(), "&lt;script&gt;&amp;&quot;");
    }
}
