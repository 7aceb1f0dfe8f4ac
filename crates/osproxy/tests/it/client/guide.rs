use std::path::Path;

use futures_util::TryStreamExt;
use osproxy_client::{Client, ErrorKind, FileFilter, Result, Source};

pub fn connect(url: &str, key: &str) -> Result<Client> {
    Client::builder(url).api_key(key).build()
}

/// Sends a file in parallel parts, and returns its uid.
pub async fn back_up(client: &Client, file: &Path) -> Result<String> {
    let state = file.with_extension("upload.json");
    let saved = tokio::fs::read(&state).await.ok();
    let saved = saved.and_then(|json| serde_json::from_slice(&json).ok());
    let mut upload = client.upload(Source::path(file)).metadata("from", "backup").parallel(8);
    upload = if let Some(saved) = saved {
        upload.resume(saved)
    } else {
        let state = state.clone();
        upload.on_start(move |upload| {
            let json = serde_json::to_vec(upload).expect("it is JSON");
            std::fs::write(state, json).expect("the folder can be written");
        })
    };
    let uploaded = upload.progress(|progress| print!("\r{}", progress.transferred)).send().await;
    // If the file has changed since, the next attempt starts anew.
    if uploaded.as_ref().map_or_else(|error| error.kind() == ErrorKind::SourceChanged, |_| true) {
        let _ = tokio::fs::remove_file(&state).await;
    }
    Ok(uploaded?.uid)
}

/// Saves the newest file with this name.
pub async fn restore(client: &Client, name: &str, to: &Path) -> Result<bool> {
    let filter = FileFilter { prefix: Some(name.to_owned()), ..FileFilter::default() };
    let files: Vec<_> = client.list_files(filter).try_collect().await?;
    let named = files.into_iter().filter(|file| file.name == name);
    let Some(newest) = named.max_by(|one, other| one.created_at.cmp(&other.created_at)) else {
        return Ok(false);
    };
    let saved = client.download(newest.uid).to_path(to).await?;
    Ok(saved.is_verified)
}
