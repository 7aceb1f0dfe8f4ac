use super::value::section;

section! {
    /// `app`: the Go program's general section.
    AppSection {
        /// TCP port on loopback, where `server.listen` is not set.
        port: u16 = 8888,
    }
    ignored ["env", "app_name", "app_url"]
}
