use super::value::{Findings, section};

section! {
    /// `telemetry`: export of traces to OpenTelemetry.
    TelemetrySection {
        /// URL of a collector that accepts OTLP over HTTP as JSON, such as `http://127.0.0.1:4318`.
        /// Empty: traces are not exported.
        otlp_endpoint: String = String::new(),
    }
    ignored []
}

/// Path that is appended to the URL of the collector, unless the URL already ends with it.
const PATH: &str = "/v1/traces";

impl TelemetrySection {
    /// The URL to which traces are posted; `None` if traces are not exported.
    pub fn traces_url(&self) -> Option<String> {
        let endpoint = self.otlp_endpoint.trim_end_matches('/');
        (!endpoint.is_empty())
            .then(|| if endpoint.ends_with(PATH) { endpoint.to_owned() } else { format!("{endpoint}{PATH}") })
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        let endpoint = &self.otlp_endpoint;
        let authority = ["http://", "https://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
        if !endpoint.is_empty()
            && authority.is_none_or(|rest| rest.is_empty() || rest.contains(['?', '#', '@']))
        {
            findings.problem(
                "telemetry.otlp_endpoint",
                "must be the URL of a collector, such as http://127.0.0.1:4318, or empty",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn traces_go_to_their_path_of_a_collector_or_nowhere() {
        let url = |endpoint: &str| TelemetrySection { otlp_endpoint: endpoint.to_owned() }.traces_url();
        assert_eq!(url(""), None);
        for endpoint in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(url(endpoint).unwrap(), "http://c:4318/v1/traces");
        }
        for wrong in ["c:4318", "grpc://c:4317", "http://", "http://user:secret@c", "http://c/?x"] {
            let problems = parse(&format!("telemetry: {{otlp_endpoint: '{wrong}'}}"), &[]).unwrap_err();
            assert!(problems[0].starts_with("telemetry.otlp_endpoint"), "{problems:?}");
        }
    }
}
