use super::value::section;

section! {
    /// `uploads`: what an upload may be.
    UploadsSection {
        /// Largest file, in bytes.
        max_size: u64 = 5 << 40,
    }
    ignored []
}
