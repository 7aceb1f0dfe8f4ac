use super::value::{choice, section};

section! {
    /// `auth`: who may use the service.
    AuthSection {
        /// Whom the routes of the business side serve. Danger: with `open`, whoever reaches the port can read and delete
        /// every file of the tenant `default`.
        mode: AuthMode = AuthMode::Keys,
    }
    ignored []
}

choice! {
    /// Whom the routes of the business side serve.
    AuthMode {
        /// Holders of API keys. `osproxy key create` makes them, and the first start makes one if there is none: it prints it, and keeps it
        /// in `bootstrap-key` of `data_dir`.
        Keys = "keys",
        /// Everyone who can reach the port. For closed networks, as with the Go program.
        Open = "open",
    }
}
