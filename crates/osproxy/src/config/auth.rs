use super::value::{choice, section};

section! {
    /// `auth`: who may use the service.
    AuthSection {
        /// Who may use the API. Holders of signed links can always use them, within the limits of
        /// the link. Danger: with `open`, everyone who can reach the port can read and delete every
        /// file of the tenant `default`.
        mode: AuthMode = AuthMode::Keys,
    }
    ignored []
}

choice! {
    /// Who may use the API.
    AuthMode {
        /// Clients with an API key. Create keys with `osproxy key create`. If there is no key at
        /// the first start, osproxy creates one, prints it and stores it in the file
        /// `bootstrap-key` in `data_dir`.
        Keys = "keys",
        /// Anyone who can reach the port, without a key, as with the Go program. For closed
        /// networks only.
        Open = "open",
    }
}
