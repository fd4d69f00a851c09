//! What is wrong with a configuration, where, and how that looks: a snippet with a caret for each problem.
//! Knows no key and no rule.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{
    Annotation, AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str,
};

/// Problems shown at once; the rest is only counted.
pub const PROBLEMS_SHOWN_MAX: usize = 64;

/// A text that values come from: the file, or one override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The file's name; `None` for an override, which is its own name: `--queue-max 64`.
    pub(super) file: Option<String>,
    pub(super) text: String,
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
        let text = texts.iter().map(|text| format!("{text}\n")).collect::<Vec<_>>().join("\n");
        // The renderer shows C0 controls as pictures and lets C1 pass, which some terminals obey.
        text.replace(|char| ('\u{80}'..='\u{9f}').contains(&char), "\u{fffd}")
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let primary = self.annotation(&problem.place, &problem.label, AnnotationKind::Primary);
        let mut snippets = vec![self.snippet(problem.place.source)];
        if let Some((place, label)) = &problem.also {
            let context = self.annotation(place, label, AnnotationKind::Context);
            if place.source == problem.place.source {
                snippets[0] = self.snippet(place.source).annotation(context);
            } else {
                snippets.push(self.snippet(place.source).annotation(context));
            }
        }
        let first = snippets.remove(0).annotation(primary);
        let help = problem.help.as_ref().map(|help| Level::HELP.message(help));
        let group = Group::with_title(level.primary_title(&problem.title));
        group.element(first).elements(snippets).elements(help)
    }

    fn annotation<'a>(&self, place: &Place, label: &'a str, kind: AnnotationKind) -> Annotation<'a> {
        // A label may quote what it complains of, and so bring control characters to a terminal.
        let label = (!label.is_empty()).then(|| normalize_untrusted_str(label));
        kind.span(place.span.clone()).label(label)
    }

    fn snippet(&self, source: usize) -> Snippet<'_, Annotation<'_>> {
        let source = &self.sources[source];
        let snippet = Snippet::source(&source.text).line_numbering(source.file.is_some());
        snippet.path(source.file.as_deref())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}
