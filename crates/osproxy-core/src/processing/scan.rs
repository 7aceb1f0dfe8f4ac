//! Asks ClamAV: sends the content to `clamd` and reads its verdict.

use std::{io, sync::Arc};

use futures_util::TryStreamExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::{
    ContentStream, Findings, OpenContent, Step, StepError, StepFile, Verdict, answer,
    settings::{ScanSettings, ScannerAddress, TooLarge},
};

/// Maximum size of a reply, in bytes.
const MAX_REPLY: u64 = 4 << 10;
/// Maximum size of a chunk, in bytes.
const CHUNK: usize = 256 << 10;

/// A connection to clamd.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The step `scan`.
pub(super) struct Scan {
    settings: Arc<ScanSettings>,
}

impl Scan {
    pub(super) fn new(settings: ScanSettings) -> Self {
        Self { settings: Arc::new(settings) }
    }

    async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match &self.settings.address {
            ScannerAddress::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            ScannerAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    /// The verdict about a file that is too large to be scanned.
    fn too_large(&self) -> Verdict {
        match self.settings.too_large {
            TooLarge::Pass => Verdict::accept(),
            TooLarge::Reject => Verdict::Reject { reason: "the file is too large to be scanned".to_owned() },
        }
    }

    /// Returns the versions of the scanner and of its signature database.
    async fn version(&self) -> io::Result<String> {
        let mut connection = self.connect().await?;
        connection.write_all(b"zVERSION\0").await?;
        read_reply(&mut connection).await
    }

    /// Sends the content and returns the reply.
    async fn scan(&self, content: ContentStream) -> Result<String, StepError> {
        let away = |error: io::Error| StepError::unavailable("clamd does not answer", error);
        let mut connection = self.connect().await.map_err(away)?;
        let sent = send(&mut connection, content).await;
        // At its size limit, clamd replies and closes the connection before it has all content.
        match (read_reply(&mut connection).await, sent) {
            (_, Err(SendError::Content(error))) => Err(error),
            // A file passes only if the scanner has all of it.
            (Ok(reply), Ok(())) if !reply.is_empty() => Ok(reply),
            (Ok(reply), Err(_)) if reply.ends_with(FOUND) || reply.contains(TOO_LARGE) => Ok(reply),
            (_, Err(SendError::Connection(error))) | (Err(error), Ok(())) => Err(away(error)),
            (Ok(_), Ok(())) => Err(StepError::unavailable_msg("clamd closed the connection without a reply")),
        }
    }
}

/// End of a reply about infected content.
const FOUND: &str = " FOUND";
/// Part of the reply about content above `StreamMaxLength`.
const TOO_LARGE: &str = "size limit exceeded";

/// Why content was not sent.
enum SendError {
    Content(StepError),
    Connection(io::Error),
}

/// Sends content with the command `INSTREAM`: chunks with their length, and an empty chunk.
async fn send(connection: &mut Box<dyn Connection>, mut content: ContentStream) -> Result<(), SendError> {
    connection.write_all(b"zINSTREAM\0").await.map_err(SendError::Connection)?;
    while let Some(bytes) = content.try_next().await.map_err(|error| SendError::Content(error.into()))? {
        for chunk in bytes.chunks(CHUNK) {
            let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_be_bytes();
            connection.write_all(&length).await.map_err(SendError::Connection)?;
            connection.write_all(chunk).await.map_err(SendError::Connection)?;
        }
    }
    connection.write_all(&0_u32.to_be_bytes()).await.map_err(SendError::Connection)?;
    connection.flush().await.map_err(SendError::Connection)
}

/// Reads a reply, which ends with NUL or the connection.
async fn read_reply(connection: &mut Box<dyn Connection>) -> io::Result<String> {
    let mut reply = Vec::new();
    let mut limited = connection.take(MAX_REPLY);
    while reply.last() != Some(&0) && limited.read_buf(&mut reply).await? > 0 {}
    let text = String::from_utf8_lossy(&reply);
    Ok(answer::shorten(text.trim_end_matches('\0').trim(), ""))
}

impl Step for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    async fn run(&self, file: &StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        let settings = &self.settings;
        if file.size > settings.max_size {
            return Ok(self.too_large());
        }
        let scanning = async {
            let version = self.version().await;
            let version = version.map_err(|error| StepError::unavailable("clamd does not answer", error))?;
            let reply = self.scan(content.open(0..file.size).await?).await?;
            if reply.contains(TOO_LARGE) {
                return Ok(self.too_large());
            }
            judge(&reply, version, settings.reject_infected)
        };
        let scanned = tokio::time::timeout(settings.timeout, scanning).await;
        scanned.unwrap_or_else(|_| {
            let seconds = settings.timeout.as_secs();
            Err(StepError::unavailable_msg(format!("clamd gave no verdict within {seconds} seconds")))
        })
    }
}

/// Turns a reply of clamd into a verdict.
fn judge(reply: &str, version: String, reject_infected: bool) -> Result<Verdict, StepError> {
    let verdict = reply.strip_prefix("stream: ").unwrap_or(reply);
    if verdict == "OK" {
        return Ok(Verdict::Accept(Findings { basis: Some(version), ..Findings::default() }));
    }
    if let Some(signature) = verdict.strip_suffix(FOUND) {
        let reason = format!("infected: {signature}");
        return Ok(if reject_infected { Verdict::Reject { reason } } else { Verdict::Quarantine { reason } });
    }
    Err(StepError::failed(format!("clamd says: {verdict}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_verdicts() {
        let judge = |reply: &str, reject| judge(reply, "ClamAV 1".to_owned(), reject);
        let Verdict::Accept(findings) = judge("stream: OK", false).unwrap() else {
            panic!("not accepted");
        };
        assert_eq!(findings.basis.as_deref(), Some("ClamAV 1"));
        let reason = "infected: Eicar-Test-Signature".to_owned();
        let found = "stream: Eicar-Test-Signature FOUND";
        assert_eq!(judge(found, false).unwrap(), Verdict::Quarantine { reason: reason.clone() });
        assert_eq!(judge(found, true).unwrap(), Verdict::Reject { reason });
        for other in ["INSTREAM size limit exceeded. ERROR", "", "OK stream:", "UNKNOWN COMMAND"] {
            assert!(judge(other, false).is_err(), "{other}");
        }
    }
}
