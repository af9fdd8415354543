//! The text that scrapers read of a registry: OpenMetrics for who asks for it, as Prometheus does, and Prometheus' own text format
//! (version 0.0.4) for everybody else.
//!
//! The library writes OpenMetrics. The other differs in what stands above the samples: counters are named with their suffix there,
//! `unknown` is `untyped`, and nothing marks the end. Sources: OpenMetrics 1.0, and Prometheus' page on exposition formats.

use std::fmt::{self, Write as _};

use axum::http::{HeaderMap, HeaderValue, header};
use prometheus_client::{encoding::text::encode, registry::Registry};

/// Everything in the form that these request headers ask for, and that form's name.
pub(crate) fn of(registry: &Registry, request: &HeaderMap) -> Result<(HeaderValue, String), fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    if wants_openmetrics(request) {
        return Ok((OPENMETRICS, text));
    }
    Ok((PLAIN, plain(&text)?))
}

fn wants_openmetrics(request: &HeaderMap) -> bool {
    let accepted = request.get_all(header::ACCEPT).into_iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|kind| kind.trim_start().starts_with("application/openmetrics-text"))
}

/// Help comes before the type, which decides its name.
fn plain(openmetrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), _) => {}
            (Some("#"), Some("HELP"), Some(name)) => help = Some((name, words.next().unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name)) => {
                let (suffix, kind) = match words.next() {
                    Some("counter") => ("_total", "counter"),
                    Some("unknown") | None => ("", "untyped"),
                    Some(kind) => ("", kind),
                };
                if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                    writeln!(text, "# HELP {name}{suffix} {help}")?;
                }
                writeln!(text, "# TYPE {name}{suffix} {kind}")?;
            }
            _ => writeln!(text, "{line}")?,
        }
    }
    Ok(text)
}

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use test_case::test_case;

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let counts = Family::<Vec<(String, String)>, Counter>::default();
        counts
            .get_or_create(&vec![("why".to_owned(), "a \"b\" # c".to_owned())])
            .inc();
        registry.register("calls", "Calls", counts);
        registry.register("open", "Open ones", Gauge::<i64>::default());
        let times = Histogram::new([1.0]);
        times.observe(0.5);
        registry.register("seconds", "Times", times);
        registry
    }

    #[test_case(None, false; "who does not say")]
    #[test_case(Some("*/*"), false; "who takes anything")]
    #[test_case(Some("text/plain;version=0.0.4"), false; "an old scraper")]
    #[test_case(Some("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), true; "Prometheus")]
    fn each_gets_the_form_that_it_asks_for(accept: Option<&str>, openmetrics: bool) {
        let mut request = HeaderMap::new();
        if let Some(accept) = accept {
            request.insert(header::ACCEPT, accept.parse().unwrap());
        }
        let (kind, text) = of(&registry(), &request).unwrap();
        assert_eq!(kind == OPENMETRICS, openmetrics, "{kind:?}");
        assert_eq!(text.ends_with("# EOF\n"), openmetrics, "{text}");
    }

    #[test]
    fn in_the_older_form_a_counter_is_named_as_its_samples_are() {
        let (_, text) = of(&registry(), &HeaderMap::new()).unwrap();
        let expected = "\
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{why=\"a \\\"b\\\" # c\"} 1
# HELP open Open ones.
# TYPE open gauge
open 0
# HELP seconds Times.
# TYPE seconds histogram
seconds_sum 0.5
seconds_count 1
seconds_bucket{le=\"1.0\"} 1
seconds_bucket{le=\"+Inf\"} 1
";
        assert_eq!(text, expected);
        assert_eq!(
            plain("# HELP a A.\n# TYPE a unknown\n# UNIT a seconds\na 1\n# EOF\n").unwrap(),
            "# HELP a A.\n# TYPE a untyped\na 1\n"
        );
    }
}
