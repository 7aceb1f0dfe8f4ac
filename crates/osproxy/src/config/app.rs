use super::value::section;

section! {
    /// `app`: general section of the Go program.
    AppSection {
        /// TCP port on 127.0.0.1; used when `server.listen` is not set.
        port: u16 = 8888,
    }
    ignored ["env", "app_name", "app_url"]
}
