//! Reads an HTTP page of the agent or the RA, and its metrics by name and labels.
//!
//! HTTP/1.0, so that an answer is never chunked. Metrics are parsed, never searched as text.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For example 200.
    pub status: u16,
    /// Header lines, as sent.
    pub headers: String,
    /// What follows them.
    pub body: String,
}

/// `GET path`. `accept` is the value of that header, if any.
pub async fn get(address: SocketAddr, path: &str, accept: Option<&str>) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let accept = accept.map(|kind| format!("accept: {kind}\r\n")).unwrap_or_default();
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n{accept}\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (headers, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer without an end of its headers")?;
    let status = headers.split(' ').nth(1).context("no status line")?.parse()?;
    Ok(Answer {
        status,
        headers: headers.to_owned(),
        body: body.to_owned(),
    })
}

/// One line of a metrics page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// With suffix, for example `…_total`.
    pub name: String,
    /// Sorted by name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// A metrics page.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Vec<Sample>);

impl Metrics {
    /// Reads `/metrics`.
    pub async fn scrape(address: SocketAddr) -> anyhow::Result<Self> {
        let answer = get(address, "/metrics", None).await?;
        if answer.status != 200 {
            bail!("/metrics answered {}", answer.status);
        }
        Self::parse(&answer.body)
    }

    /// Parses the text format of Prometheus and of OpenMetrics.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| sample(line).with_context(|| format!("metrics line {line:?}")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The samples of this name that have (at least) these labels.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|seen| seen == value))
        })
    }

    /// Sum over the samples that fit; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.select(name, labels)
            .map(|sample| sample.value)
            .reduce(|left, right| left + right)
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.0
    }
}

fn sample(line: &str) -> anyhow::Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"").context("a label without a value")?;
            let (value, after) = quoted(after).context("a label value without an end")?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next().context("no value")?.parse()?;
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The text up to the closing quote, unescaped, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_labels_and_values() {
        let page = "# HELP a b\n# TYPE a counter\na_total{x=\"1\",y=\"q\\\"},{\\\\\"} 3\na_total{x=\"2\"} 4 1700000000\nb 1e3\nc +Inf\n# EOF\n";
        let metrics = Metrics::parse(page).unwrap();
        assert_eq!(metrics.sum("a_total", &[]), Some(7.0));
        assert_eq!(metrics.sum("a_total", &[("y", "q\"},{\\")]), Some(3.0));
        assert_eq!(metrics.sum("b", &[]), Some(1000.0));
        assert_eq!(metrics.sum("c", &[]), Some(f64::INFINITY));
        assert_eq!(metrics.sum("a_total", &[("x", "3")]), None);
        assert!(Metrics::parse("a{x=\"1").is_err());
    }
}
