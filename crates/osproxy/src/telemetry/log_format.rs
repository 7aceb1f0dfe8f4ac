//! The format of log lines: text or JSON, with the id of the current request.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
};

use osproxy_core::RequestId;
use osproxy_http::{AccessLine, AccessLog};
use serde_json::Value;
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::log_writer::LogWriter;
use crate::config::LogFormat;

/// Typical length of a line of the access log, in bytes.
const LINE_CAPACITY: usize = 512;

/// Formats events. The fields are formatted by `DefaultFields` or `JsonFields`.
pub(super) struct LineFormat(pub(super) LogFormat);

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (level, request) = (*event.metadata().level(), RequestId::current());
        let request = request.as_ref().map(|RequestId(id)| &**id);
        let coloured = writer.has_ansi_escapes();
        match self.0 {
            LogFormat::Text => {
                begin_text(&mut writer, level, request, coloured)?;
                context.format_fields(writer.by_ref(), event)?;
            }
            LogFormat::Json => {
                let mut fields = String::new();
                context.format_fields(Writer::new(&mut fields), event)?;
                let fields = fields.strip_prefix('{').and_then(|fields| fields.strip_suffix('}'));
                begin_json(&mut writer, level)?;
                if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
                    write!(writer, ",{fields}")?;
                }
                end_json(&mut writer, request)?;
            }
        }
        writeln!(writer)
    }
}

/// Writes the time, the level and the request id.
fn begin_text(mut out: impl fmt::Write, level: Level, request: Option<&str>, coloured: bool) -> fmt::Result {
    if coloured {
        let colour = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        out.write_str("\x1b[2m")?;
        SystemTime.format_time(&mut Writer::new(&mut out))?;
        write!(out, "\x1b[0m \x1b[{colour}m{:>5}\x1b[0m ", level.as_str())?;
    } else {
        SystemTime.format_time(&mut Writer::new(&mut out))?;
        write!(out, " {:>5} ", level.as_str())?;
    }
    match request {
        Some(id) => write!(out, "request{{request_id={id:?}}}: "),
        None => Ok(()),
    }
}

fn begin_json(mut out: impl fmt::Write, level: Level) -> fmt::Result {
    out.write_str("{\"timestamp\":\"")?;
    SystemTime.format_time(&mut Writer::new(&mut out))?;
    write!(out, "\",\"level\":\"{}\"", level.as_str())
}

fn end_json(mut out: impl fmt::Write, request: Option<&str>) -> fmt::Result {
    if let Some(id) = request {
        write!(out, ",\"spans\":[{{\"request_id\":{},\"name\":\"request\"}}]", Value::from(id))?;
    }
    out.write_char('}')
}

/// Writes the access log. Its lines look like other lines, but are formatted without `tracing`,
/// which takes several times as long.
#[derive(Debug)]
pub(super) struct AccessLogWriter {
    pub(super) writer: LogWriter,
    pub(super) format: LogFormat,
    pub(super) level: LevelFilter,
    pub(super) coloured: bool,
}

impl AccessLog for AccessLogWriter {
    fn write(&self, line: &AccessLine<'_>) {
        let level = if line.is_health_check { Level::DEBUG } else { Level::INFO };
        if self.level < level {
            return;
        }
        let mut text = String::with_capacity(LINE_CAPACITY);
        let formatted = match self.format {
            LogFormat::Text => self.format_text(&mut text, level, line),
            LogFormat::Json => format_json(&mut text, level, line),
        };
        if formatted.is_ok() {
            text.push('\n');
            // The writer buffers the line, and cannot fail.
            let _ = (&self.writer).write_all(text.as_bytes());
        }
    }
}

impl AccessLogWriter {
    fn format_text(&self, out: &mut String, level: Level, line: &AccessLine<'_>) -> fmt::Result {
        begin_text(&mut *out, level, Some(line.request_id), self.coloured)?;
        write!(out, "served method={} route={:?} path={:?}", line.method, line.route, line.path)?;
        if let Some(uid) = line.uid {
            write!(out, " uid={uid}")?;
        }
        if let Some(status) = line.status {
            write!(out, " status={status}")?;
        }
        if let Some(error) = line.error {
            write!(out, " error={error:?}")?;
        }
        if let Some(why) = line.why {
            write!(out, " why={why:?}")?;
        }
        write!(
            out,
            " duration_us={} bytes_received={} bytes_sent={} complete={}",
            line.duration_us, line.bytes_received, line.bytes_sent, line.complete
        )?;
        match line.peer {
            Some(peer) => write!(out, " peer={peer}"),
            None => Ok(()),
        }
    }
}

fn format_json(out: &mut String, level: Level, line: &AccessLine<'_>) -> fmt::Result {
    begin_json(&mut *out, level)?;
    let path = Value::from(line.path);
    write!(out, ",\"message\":\"served\",\"method\":{}", Value::from(line.method))?;
    write!(out, ",\"route\":{},\"path\":{path}", Value::from(line.route))?;
    if let Some(uid) = line.uid {
        // A string: JavaScript would round the number.
        write!(out, ",\"uid\":\"{uid}\"")?;
    }
    if let Some(status) = line.status {
        write!(out, ",\"status\":{status}")?;
    }
    if let Some(error) = line.error {
        write!(out, ",\"error\":{}", Value::from(error))?;
    }
    if let Some(why) = line.why {
        write!(out, ",\"why\":{}", Value::from(why))?;
    }
    write!(
        out,
        ",\"duration_us\":{},\"bytes_received\":{},\"bytes_sent\":{},\"complete\":{}",
        line.duration_us, line.bytes_received, line.bytes_sent, line.complete
    )?;
    if let Some(peer) = line.peer {
        write!(out, ",\"peer\":\"{peer}\"")?;
    }
    end_json(out, Some(line.request_id))
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{IpAddr, Ipv4Addr},
        sync::mpsc,
    };

    use tracing_subscriber::{fmt::format::JsonFields, layer::SubscriberExt};

    use super::*;

    struct Output(mpsc::Sender<Vec<u8>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LINE: AccessLine<'_> = AccessLine {
        request_id: "a\"b",
        method: "GET",
        route: "/f/{uid}/{filename}",
        path: "/f/7/a\"b\\\u{1b}",
        uid: Some(7),
        status: Some(404),
        error: Some("file_not_found"),
        why: Some("no \"file\""),
        duration_us: 31,
        bytes_received: 0,
        bytes_sent: 145,
        complete: true,
        peer: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        is_health_check: false,
    };

    /// Writes a line of the access log, and the same line as an event. Returns both without their
    /// time.
    fn both(format: LogFormat) -> Vec<String> {
        let (sender, lines) = mpsc::channel();
        let (writer, flush) = LogWriter::start(Output(sender), false).unwrap();
        let log =
            AccessLogWriter { writer: writer.clone(), format, level: LevelFilter::INFO, coloured: false };
        log.write(&LINE);
        log.write(&AccessLine { is_health_check: true, ..LINE });
        let lines_of_events = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
        let emit = || {
            RequestId(LINE.request_id.into()).sync_scope(|| {
                tracing::info!(
                    method = %LINE.method,
                    route = LINE.route,
                    path = LINE.path,
                    uid = LINE.uid.map(tracing::field::display),
                    status = LINE.status,
                    error = LINE.error,
                    why = LINE.why,
                    duration_us = LINE.duration_us,
                    bytes_received = LINE.bytes_received,
                    bytes_sent = LINE.bytes_sent,
                    complete = LINE.complete,
                    peer = LINE.peer.map(tracing::field::display),
                    "served"
                );
            });
        };
        let registry = tracing_subscriber::registry();
        match format {
            LogFormat::Text => {
                let subscriber = registry.with(lines_of_events.event_format(LineFormat(format)));
                tracing::subscriber::with_default(subscriber, emit);
            }
            LogFormat::Json => {
                let layer = lines_of_events.fmt_fields(JsonFields::new()).event_format(LineFormat(format));
                tracing::subscriber::with_default(registry.with(layer), emit);
            }
        }
        drop(flush);
        let text = String::from_utf8(lines.iter().flatten().collect()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_of_the_access_log_looks_like_an_event() {
        let lines = both(LogFormat::Text);
        let without_time: Vec<_> = lines.iter().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(without_time.len(), 2, "{lines:?}");
        assert_eq!(without_time[0], without_time[1]);
        assert!(
            without_time[0].starts_with(" INFO request{request_id=\"a\\\"b\"}: served method=GET route=")
        );

        let lines = both(LogFormat::Json);
        let parsed: Vec<Value> = lines
            .iter()
            .map(|line| {
                let mut line: Value = serde_json::from_str(line).unwrap();
                assert!(line["timestamp"].take().as_str().unwrap().ends_with('Z'));
                line
            })
            .collect();
        assert_eq!(parsed.len(), 2, "{lines:?}");
        assert_eq!(parsed[0], parsed[1]);
        assert_eq!(parsed[0]["spans"][0]["request_id"], "a\"b");
        assert_eq!(parsed[0]["uid"], "7");
    }
}
