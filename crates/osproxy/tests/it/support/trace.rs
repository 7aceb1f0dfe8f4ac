use std::collections::HashMap;

use super::Service;

/// The system calls of a service from [`Service::start_traced`] so far, in the order in which the
/// calls returned. strace splits an interrupted call into two lines of the same thread. This
/// function joins the two lines.
pub fn system_calls(service: &Service) -> Vec<String> {
    let text = std::fs::read_to_string(service.folder().join("trace")).unwrap();
    let mut begun = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let thread = line.split_whitespace().next().unwrap();
        if let Some(call) = line.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, call);
        } else if line.contains(" resumed>") {
            calls.push(format!("{}{line}", begun.remove(thread).unwrap()));
        } else {
            calls.push(line.to_owned());
        }
    }
    calls
}
