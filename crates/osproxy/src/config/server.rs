use super::value::section;

section! {
    /// `server`: the HTTP listener.
    ServerSection {
        /// Address and port, such as `127.0.0.1:8888`; port 0 takes a free one. When not set,
        /// `app.port` on 127.0.0.1.
        listen: Option<String> = None,
        /// How long requests that are running may go on after SIGTERM or SIGINT, in seconds.
        shutdown_grace: u64 = 30,
        /// How long a client may take to send the head of a request, in seconds.
        header_timeout: u64 = 30,
    }
    ignored []
}
