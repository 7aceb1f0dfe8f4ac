//! Log output by a thread that collects lines and writes them together.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// How long lines are collected before they are written. Waking the thread for every line took a
/// third of the CPU time of small downloads.
const COLLECT_TIME: Duration = Duration::from_millis(50);
/// Maximum time that shutdown waits for a blocked output.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum total size of the buffered lines, in bytes. Lines that do not fit are dropped and
/// counted.
const CAPACITY: usize = 4 << 20;
/// First UTF-8 byte of the C1 control characters, and of some printable characters.
const C1_LEAD_BYTE: u8 = 0xc2;
/// Capacity that the buffer keeps between writes, in bytes.
const KEPT_CAPACITY: usize = 64 << 10;

/// Accepts lines without ever waiting for the output. Control characters are written as JSON
/// escapes such as `\u001b`, so that a value can neither start a new line nor control the reader's
/// terminal.
#[derive(Clone)]
pub(super) struct LogWriter {
    shared: Arc<Shared>,
    /// Whether lines are coloured with escape sequences, which must be kept.
    coloured: bool,
}

/// Writes the remaining lines on drop.
pub(super) struct FlushOnDrop(Arc<Shared>);

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    /// Notified when the first line is buffered, when a stop is requested, and when the thread has
    /// stopped.
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    dropped: u64,
    stop: bool,
    stopped: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        coloured: bool,
    ) -> io::Result<(Self, FlushOnDrop)> {
        let shared = Arc::new(Shared::default());
        let thread_shared = shared.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || thread_shared.run(output))?;
        Ok((Self { shared: shared.clone(), coloured }, FlushOnDrop(shared)))
    }
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").finish_non_exhaustive()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &LogWriter {
    /// Buffers a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let escaped = escape_control_characters(line, self.coloured);
        let bytes = escaped.as_deref().unwrap_or(line);
        let mut lines = self.shared.lock();
        if lines.bytes.len() + bytes.len() > CAPACITY {
            lines.dropped += 1;
            return Ok(line.len());
        }
        let was_empty = lines.bytes.is_empty();
        lines.bytes.extend_from_slice(bytes);
        drop(lines);
        if was_empty {
            self.shared.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes the control characters of a line, except its final line feed and, if `coloured`, escape
/// characters. Returns `None` if the line can be written as it is.
fn escape_control_characters(line: &[u8], coloured: bool) -> Option<Vec<u8>> {
    let (text, end) = match line.strip_suffix(b"\n") {
        Some(text) => (text, "\n"),
        None => (line, ""),
    };
    let may_begin_control = |byte: &u8| byte.is_ascii_control() || *byte == C1_LEAD_BYTE;
    if !text.iter().any(may_begin_control) {
        return None;
    }
    let mut escaped = String::with_capacity(text.len() + 64);
    for character in String::from_utf8_lossy(text).chars() {
        if character.is_control() && !(coloured && character == '\u{1b}') {
            let _ = fmt::Write::write_fmt(&mut escaped, format_args!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped.push_str(end);
    Some(escaped.into_bytes())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of the thread, which ends after a stop request.
    fn run(&self, mut output: impl Write) {
        let mut writing = Vec::new();
        let mut stop = false;
        while !stop {
            let idle = |lines: &mut Lines| lines.bytes.is_empty() && !lines.stop;
            let lines = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let collected = self.changed.wait_timeout_while(lines, COLLECT_TIME, |lines| !lines.stop);
            let (mut lines, _) = collected.unwrap_or_else(PoisonError::into_inner);
            stop = lines.stop;
            std::mem::swap(&mut lines.bytes, &mut writing);
            let dropped = std::mem::take(&mut lines.dropped);
            drop(lines);
            // Errors are ignored: a failing log output must not stop the service, and there is no
            // other place to report errors.
            let _ = output.write_all(&writing);
            if dropped > 0 {
                let _ = writeln!(output, "{dropped} lines are missing here: the log output is too slow");
            }
            let _ = output.flush();
            writing.clear();
            writing.shrink_to(KEPT_CAPACITY);
        }
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let mut lines = self.0.lock();
        lines.stop = true;
        self.0.changed.notify_all();
        // A blocked output must not keep the process from exiting.
        let _ = self.0.changed.wait_timeout_while(lines, LAST_WRITE_TIMEOUT, |lines| !lines.stopped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Passes written bytes on; each write waits for a permit.
    struct Output(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.1.recv();
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        let escaped = |line: &str, coloured| {
            let escaped = escape_control_characters(line.as_bytes(), coloured);
            escaped.map(|line| String::from_utf8(line).unwrap())
        };
        for plain in ["", "\n", "x\n", "x", "é ß 漢 \u{a0}\n"] {
            assert!(escaped(plain, false).is_none_or(|line| line == plain), "{plain:?}");
        }
        let line = "a\nb\r\tc\u{1b}[31m\u{7f}\u{9b}d\n";
        assert_eq!(escaped(line, false).unwrap(), "a\\u000ab\\u000d\\u0009c\\u001b[31m\\u007f\\u009bd\n");
        // The formatter has already escaped the values, so escape characters can only be colour
        // sequences.
        assert_eq!(escaped("\u{1b}[31ma\nb\n", true).unwrap(), "\u{1b}[31ma\\u000ab\n");
    }

    #[test]
    fn remaining_lines_are_written_on_drop() {
        let ((written, lines), (permit, permits)) = (channel(), channel());
        drop(permit);
        let (log, flush) = LogWriter::start(Output(written, permits), false).unwrap();
        for number in 0..100 {
            writeln!(log.make_writer(), "{number}").unwrap();
        }
        drop(flush);
        let text = String::from_utf8(lines.iter().flatten().collect()).unwrap();
        assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(0..100));
    }

    #[test]
    fn a_blocked_output_drops_lines_without_blocking() {
        let ((written, lines), (permit, permits)) = (channel(), channel());
        let (log, flush) = LogWriter::start(Output(written, permits), false).unwrap();
        let line = vec![b'x'; 64 << 10];
        // The thread may have taken one full buffer. Further lines fill the next buffer, and the
        // rest are dropped.
        for _ in 0..4 * CAPACITY / line.len() {
            assert_eq!(log.make_writer().write(&line).unwrap(), line.len());
        }
        assert!(log.shared.lock().bytes.len() <= CAPACITY);
        drop(permit);
        drop(flush);
        let text = lines.iter().flatten().collect::<Vec<_>>();
        assert!(String::from_utf8_lossy(&text).contains("lines are missing here"));
    }
}
