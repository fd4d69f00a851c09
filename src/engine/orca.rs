//! Reads what the engine reports of its own load: ORCA, in the text form that Rime sends.

use http::{HeaderMap, HeaderName};

/// The header that carries an ORCA load report.
pub(super) const LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// The engine's utilization, 1.0 being full: `application_utilization`, or the name that Rime's image of 20251220
/// used. `None` where the answer reports none.
pub(crate) fn utilization(headers: &HeaderMap) -> Option<f64> {
    let report = headers.get(LOAD_METRICS)?.to_str().ok()?.strip_prefix("TEXT ")?;
    report.split(',').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        match name.trim() {
            "application_utilization" | "named_metrics.inference_concurrency_utilization" => {
                value.trim().parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(value: &str) -> Option<f64> {
        let mut headers = HeaderMap::new();
        headers.insert(LOAD_METRICS, value.parse().unwrap());
        utilization(&headers)
    }

    #[test]
    fn utilization_is_read_from_the_text_report() {
        assert_eq!(reported("TEXT application_utilization=0.5, cpu_utilization=0.3"), Some(0.5));
        assert_eq!(reported("TEXT cpu_utilization=0.3,application_utilization=1.25"), Some(1.25));
        assert_eq!(reported("TEXT named_metrics.inference_concurrency_utilization=0.25"), Some(0.25));
    }

    #[test]
    fn anything_else_reports_nothing() {
        for value in
            ["", "TEXT", "TEXT ", "TEXT application_utilization=x", "TEXT application_utilization=NaN"]
        {
            assert_eq!(reported(value), None, "{value}");
        }
        assert_eq!(reported("JSON {\"application_utilization\": 0.5}"), None);
        assert_eq!(utilization(&HeaderMap::new()), None);
    }
}
