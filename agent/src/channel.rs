//! The receiving end of a channel as a stream, for answers that go on.

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use tokio::sync::mpsc;

/// Everything that will be sent; ends when the last sender has gone.
pub fn stream<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }).boxed()
}
