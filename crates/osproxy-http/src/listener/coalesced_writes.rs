//! Fewer writes for HTTP/2. The library `h2` writes and flushes every frame separately, and most
//! clients allow frames of 16 KiB at most. Every write passes through the network stack, so a
//! download would take twice the processor time of HTTP/1.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of bytes to collect: four full frames with their headers. `h2` buffers no more
/// content of a stream.
const CAPACITY: usize = (64 << 10) + 1024;

/// Default of the maximum frame size, in bytes.
const FULL_FRAME: usize = 16 << 10;

/// A transport that collects the frames of an HTTP/2 connection, and writes them together.
pub(super) struct CoalescedWrites<I> {
    io: I,
    /// Set once the connection is known to use HTTP/2. Until then, writes pass through.
    is_multiplexed: Arc<AtomicBool>,
    collected: Vec<u8>,
    /// How much of `collected` is written already.
    written: usize,
    /// Whether another flush follows the next one.
    is_more_to_come: bool,
}

impl<I> CoalescedWrites<I> {
    pub(super) fn new(io: I, is_multiplexed: Arc<AtomicBool>) -> Self {
        Self { io, is_multiplexed, collected: Vec::new(), written: 0, is_more_to_come: false }
    }
}

impl<I: AsyncWrite + Unpin> CoalescedWrites<I> {
    fn poll_write_collected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.collected.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        // Idle connections keep no memory.
        self.collected = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for CoalescedWrites<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Nothing may stay behind while the connection waits for the client.
        if let Poll::Ready(Err(error)) = self.poll_write_collected(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for CoalescedWrites<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.is_multiplexed.load(Ordering::Relaxed) {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.collected.len() + length > CAPACITY {
            ready!(self.poll_write_collected(cx))?;
        }
        // A frame with content is written as two slices, its header and its content. `h2` flushes
        // after it, looks for the next frame, and flushes again if there is none. Other frames are
        // flushed once.
        self.is_more_to_come = length > FULL_FRAME && slices.len() > 1;
        if length > CAPACITY {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.is_more_to_come {
            let room = CAPACITY - self.collected.len();
            self.collected.reserve_exact(room);
        }
        for slice in slices {
            self.collected.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_more_to_come) {
            // If there is no other flush, the connection is polled again and reads, which writes.
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_collected(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_collected(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Notes the length of each write.
    struct Writes(Arc<std::sync::Mutex<Vec<usize>>>);

    impl AsyncRead for Writes {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Writes {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            // A socket may take less than it is given.
            let count = bytes.len().min(CAPACITY - 1);
            self.0.lock().unwrap().push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn send_frames(
        is_multiplexed: bool,
        frames: &[usize],
    ) -> (CoalescedWrites<Writes>, Arc<std::sync::Mutex<Vec<usize>>>) {
        let writes = Arc::default();
        let mut io =
            CoalescedWrites::new(Writes(Arc::clone(&writes)), Arc::new(AtomicBool::new(is_multiplexed)));
        for length in frames {
            let (head, content) = ([0; 9], vec![0; length - 9]);
            let slices = [IoSlice::new(&head), IoSlice::new(&content)];
            // HTTP/1 may write only a part.
            assert!(io.write_vectored(&slices).await.unwrap() > 0);
            io.flush().await.unwrap();
        }
        (io, writes)
    }

    #[tokio::test]
    async fn full_frames_are_written_together() {
        let frame = FULL_FRAME + 9;
        let (mut io, writes) = send_frames(true, &[frame; 7]).await;
        assert_eq!(*writes.lock().unwrap(), [4 * frame]);
        // There is no more frame.
        io.flush().await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [4 * frame, 3 * frame]);
    }

    #[tokio::test]
    async fn nothing_stays_behind() {
        let frame = FULL_FRAME + 9;
        // A short frame is written at once, with the frames before it.
        let (_, writes) = send_frames(true, &[100, frame, 100]).await;
        assert_eq!(*writes.lock().unwrap(), [100, frame + 100]);
        // Reading writes first.
        let (mut io, writes) = send_frames(true, &[frame]).await;
        assert!(writes.lock().unwrap().is_empty());
        assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(*writes.lock().unwrap(), [frame]);
        let (mut io, writes) = send_frames(true, &[frame]).await;
        io.shutdown().await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [frame]);
        // Many frames without content, in one slice, are flushed once.
        let (mut io, writes) = send_frames(true, &[]).await;
        io.write_all(&vec![0; 20_000]).await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [20_000]);
        // So is HTTP/1.
        let (_, writes) = send_frames(false, &[frame]).await;
        assert_eq!(writes.lock().unwrap().len(), 1);
    }
}
