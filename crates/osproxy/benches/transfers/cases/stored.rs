//! The cost of creating and deleting a file, with few and with many stored files.

use std::path::Path;

use anyhow::Result;

use super::{Scale, alternate_all, small::CONNECTIONS};
use crate::{
    client::{Connection, run_in_threads},
    content::Content,
    measure::{self, Rounds, Sample},
    report::{Report, Target},
    server::Server,
};

/// Size of each file, in bytes.
const SIZE: usize = 1024;
/// Number of files on the server with few files.
const FEW: usize = 1000;
/// Number of files that each connection creates or deletes in a round.
const EACH: usize = 100;

const STEPS: [&str; 4] = ["create, few", "create, many", "delete, few", "delete, many"];

/// A server on which files are already stored.
struct Stored {
    server: Server,
    connections: Vec<Connection>,
    /// The files that were created last, by connection.
    uids: Vec<Vec<String>>,
    created: usize,
}

impl Stored {
    fn start(folder: &Path, content: &Content, count: usize) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        // Without packs, so that the benchmark can wait until objects are removed.
        let settings = [("LOCAL__FSYNC", "false"), ("LOCAL__PACK_BELOW", "0")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let server = Server::start_with(folder, &settings)?;
        let connections = Connection::open_many(server.address(), CONNECTIONS)?;
        let mut stored = Self { server, connections, uids: Vec::new(), created: 0 };
        stored.create(content, count / CONNECTIONS)?;
        Ok(stored)
    }

    /// Creates this many files over each connection, all with different content.
    fn create(&mut self, content: &Content, each: usize) -> Result<Sample> {
        let first = self.created;
        self.created += each * CONNECTIONS;
        let mut uids = vec![Vec::new(); CONNECTIONS];
        let mut work: Vec<_> = self.connections.iter_mut().zip(&mut uids).collect();
        let sample = measure::sample(&[self.server.id()], || {
            run_in_threads(&mut work, |number, (connection, uids)| {
                for index in 0..each {
                    uids.push(connection.store(&content.variant(first + number * each + index))?);
                }
                Ok(())
            })
        })?;
        self.uids = uids;
        Ok(sample)
    }

    /// Opens new connections: the server has closed those that were idle while the other server was
    /// filled.
    fn reconnect(&mut self) -> Result<()> {
        self.connections = Connection::open_many(self.server.address(), CONNECTIONS)?;
        Ok(())
    }

    /// Deletes the files that were created last, and waits until their objects are removed.
    fn delete(&mut self) -> Result<Sample> {
        let mut work: Vec<_> = self.connections.iter_mut().zip(&self.uids).collect();
        measure::sample(&[self.server.id()], || {
            run_in_threads(&mut work, |_, (connection, uids)| {
                uids.iter().try_for_each(|uid| connection.delete(uid))
            })?;
            self.uids.iter().flatten().try_for_each(|uid| self.server.wait_until_gone(uid))
        })
    }
}

/// The cost of an operation must not depend on the number of stored files.
pub(super) fn stored(scale: &Scale, folder: &Path, report: &mut Report) -> Result<()> {
    let many = if scale.quick { 100_000 } else { 1_000_000 };
    let content = Content::new(SIZE);
    let mut servers = [
        Stored::start(&folder.join("few"), &content, FEW)?,
        Stored::start(&folder.join("many"), &content, many)?,
    ];
    servers.iter_mut().try_for_each(Stored::reconnect)?;
    let rounds = alternate_all(scale, STEPS, |which, _| {
        let [few, many] = &mut servers;
        let stored = if which % 2 == 0 { few } else { many };
        if which < 2 { stored.create(&content, EACH) } else { stored.delete() }
    })?;
    let [create_few, create_many, delete_few, delete_many] = &rounds;
    let cpu = |sample: &Sample| sample.server_cpu * 1e6 / (EACH * CONNECTIONS) as f64;
    let case = "stored";
    let mut compare = |what: &str, many: &Rounds, few: &Rounds| {
        report.against(
            case,
            &format!("{what}, CPU µs each (peer: few)"),
            (many, few),
            cpu,
            Target::AtMost(1.2),
        );
        report.against(
            case,
            &format!("{what}, s (peer: few)"),
            (many, few),
            |sample| sample.wall,
            Target::None,
        );
    };
    compare("create", create_many, create_few);
    compare("delete", delete_many, delete_few);
    report.remark("stored: few means 1,000 files of 1 KiB, many 1,000,000 (100,000 with --quick).");
    Ok(())
}
