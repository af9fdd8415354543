//! The status as one HTML page: self-contained, without scripts, every value escaped.
//!
//! For the person who asks why a pod has no certificate: what is wrong stands first, with what to do about it.

use std::fmt::{self, Write as _};

use super::status::{Certificate, Failure, Status, Workload};

/// Renders the page.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::with_capacity(4096 + status.workloads.len() * 512);
    // Writing to a String cannot fail.
    let _ = write(&mut page, status);
    page
}

fn write(page: &mut String, status: &Status) -> fmt::Result {
    let failures = || status.workloads.iter().flat_map(|workload| &workload.certificates);
    let failing = failures()
        .filter(|certificate| certificate.last_error.is_some())
        .count();
    let certificates = failures().count();
    let ready = if status.ready { "ready" } else { "not ready" };
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Ensign agent</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1>Ensign agent <small>{}</small></h1><p class=\"{}\">{ready}</p>",
        Escaped(status.version),
        if status.ready { "good" } else { "bad" },
    )?;
    for pending in &status.pending {
        write!(
            page,
            "<p class=\"bad\">{}: {}</p>",
            Escaped(pending.name),
            Escaped(&pending.reason)
        )?;
    }
    let budget = status
        .outage_budget_seconds
        .map_or_else(|| "no certificates yet".to_owned(), duration);
    write!(
        page,
        "<dl><dt>Time</dt><dd>{}</dd><dt>Authority</dt><dd>{}</dd><dt>Workloads</dt><dd>{}</dd>\
         <dt>Certificates</dt><dd>{certificates}, {failing} failing</dd>\
         <dt title=\"until the first certificate expires if nothing can be renewed\">Outage budget</dt><dd>{budget}</dd></dl>",
        Escaped(&status.now),
        Escaped(&status.authority),
        status.workloads.len(),
    )?;
    page.push_str(
        "<table><thead><tr><th>Workload</th><th>Identity</th><th>Signer</th><th>State</th><th>Serial</th><th>Not before</th>\
         <th>Not after</th><th>Renewed at</th><th>Streams / connections</th></tr></thead><tbody>",
    );
    status.workloads.iter().try_for_each(|workload| rows(page, workload))?;
    page.push_str("</tbody></table><p><a href=\"/status?format=json\">as JSON</a></p></body></html>\n");
    Ok(())
}

fn rows(page: &mut String, workload: &Workload) -> fmt::Result {
    if workload.certificates.is_empty() {
        write!(
            page,
            "<tr><td title=\"{}\">{}</td><td colspan=\"7\">no Envoy has asked yet</td><td>{} / {}</td></tr>",
            Escaped(workload.socket.as_deref().unwrap_or("no socket")),
            Escaped(&workload.workload),
            workload.streams,
            workload.connections,
        )?;
    }
    for certificate in &workload.certificates {
        row(page, workload, certificate)?;
        if let Some(failure) = &certificate.last_error {
            failure_row(page, certificate, failure)?;
        }
    }
    Ok(())
}

fn row(page: &mut String, workload: &Workload, certificate: &Certificate) -> fmt::Result {
    let adopted = if certificate.adopted {
        " (adopted: from before the agent's start)"
    } else {
        ""
    };
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
    write!(
        page,
        "<tr><td title=\"{}\">{}</td><td>{}</td><td>{}</td><td>{}{adopted}</td><td><code>{}</code></td><td>{}</td>\
         <td>{}</td><td>{}</td><td>{} / {}</td></tr>",
        Escaped(workload.socket.as_deref().unwrap_or("no socket")),
        Escaped(&workload.workload),
        Escaped(&certificate.id),
        Escaped(certificate.signer.as_deref().unwrap_or("(default)")),
        Escaped(certificate.state),
        Escaped(&or_dash(&certificate.serial)),
        Escaped(&or_dash(&certificate.not_before)),
        Escaped(&or_dash(&certificate.not_after)),
        Escaped(&or_dash(&certificate.renew_at)),
        workload.streams,
        workload.connections,
    )
}

fn failure_row(page: &mut String, certificate: &Certificate, failure: &Failure) -> fmt::Result {
    let again = certificate
        .retry_in_seconds
        .map_or_else(|| "soon".to_owned(), |s| format!("in {}", duration(s)));
    let request = failure
        .request_id
        .as_ref()
        .map(|id| format!("request {}, ", Escaped(id)));
    let request = request.unwrap_or_default();
    write!(
        page,
        "<tr class=\"bad\"><td></td><td colspan=\"8\">{}: {} ({request}{}, {} in a row; next try {again})<br>{}</td></tr>",
        Escaped(failure.reason),
        Escaped(&failure.message),
        Escaped(&failure.at),
        certificate.attempts,
        Escaped(failure.next),
    )
}

fn duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// Text for HTML, in and out of attributes. Names and messages come from files and peers.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em;color:#222;background:#fff}\
    table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3em .8em .3em 0;border-bottom:1px solid #ddd;\
    vertical-align:top}dl{display:grid;grid-template-columns:max-content auto;gap:.2em 1em}dd{margin:0}small{color:#666}\
    .good{color:#17692b}.bad{color:#a11}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Pending;

    #[test]
    fn values_are_escaped() {
        let status = Status {
            version: "0",
            now: "t".to_owned(),
            authority: "<script>alert('x')</script>".to_owned(),
            ready: false,
            pending: vec![Pending {
                name: "ca-roots",
                reason: "\"no\" roots & more".to_owned(),
            }],
            outage_budget_seconds: Some(7_260),
            workloads: Vec::new(),
        };
        let page = render(&status);
        assert!(!page.contains("<script"), "{page}");
        assert!(
            page.contains("&lt;script&gt;") && page.contains("&quot;no&quot; roots &amp; more"),
            "{page}"
        );
        assert!(page.contains("2 h 1 min"), "{page}");
    }
}
