//! What is wrong with a configuration, where, and how that looks: a snippet with a caret for each problem.
//! Knows no key and no rule.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Problems shown at once; the rest is only counted.
pub const PROBLEMS_SHOWN_MAX: usize = 64;

/// A text that values come from: the file, or one override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// How an operator knows it: a file's name, `flag --queue-max`, `environment RIME_GATE_QUEUE_MAX`, `--set`.
    pub(super) name: String,
    /// The text.
    pub(super) text: String,
    /// Whether line numbers say something about it.
    pub(super) is_file: bool,
}

/// Bytes of a [`Source`], by its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) source: usize,
    pub(super) span: Range<usize>,
}

/// One thing that is wrong, or that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) title: String,
    pub(super) place: Place,
    pub(super) label: String,
    /// A second place that the problem leans on.
    pub(super) also: Option<(Place, String)>,
    pub(super) help: Option<String>,
}

/// How grave the problems of a list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, and is probably not meant so.
    Warning,
}

/// Every problem of one severity, in the order of their places. `Display` renders them without colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    severity: Severity,
    sources: Vec<Source>,
    list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(severity: Severity, sources: Vec<Source>, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| (problem.place.source, problem.place.span.start));
        list.dedup();
        Self { severity, sources, list }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems as text for a terminal, one snippet each, with an empty line between; ends with a line end
    /// unless there is nothing to say.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let shown = self.list.iter().take(PROBLEMS_SHOWN_MAX);
        let mut texts: Vec<_> = shown.map(|problem| renderer.render(&[self.group(problem)])).collect();
        if self.list.len() > PROBLEMS_SHOWN_MAX {
            texts.push(format!("and {} more", self.list.len() - PROBLEMS_SHOWN_MAX));
        }
        texts.iter().map(|text| format!("{text}\n")).collect::<Vec<_>>().join("\n")
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&problem.title));
        let mut snippet = None;
        let first = (&problem.place, &problem.label, AnnotationKind::Primary);
        let second = problem.also.as_ref().map(|(place, label)| (place, label, AnnotationKind::Context));
        let mut source = usize::MAX;
        for (place, label, kind) in std::iter::once(first).chain(second) {
            if place.source != source {
                group = group.elements(snippet.take());
                if !self.sources[place.source].is_file {
                    group = group.element(Origin::path(&self.sources[place.source].name));
                }
                source = place.source;
            }
            let open = snippet.unwrap_or_else(|| self.snippet(source));
            let label = (!label.is_empty()).then_some(label.as_str());
            snippet = Some(open.annotation(kind.span(place.span.clone()).label(label)));
        }
        let help = problem.help.as_ref().map(|help| Level::HELP.message(help));
        group.elements(snippet).elements(help)
    }

    fn snippet(&self, source: usize) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        let source = &self.sources[source];
        let snippet = Snippet::source(&source.text).line_numbering(source.is_file);
        snippet.path(source.is_file.then_some(source.name.as_str()))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}
