//! Tests of the service as its users meet it: the real binary, over real sockets. One file per
//! operation.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test may block, print and panic"
)]

mod support;

mod abort_upload;
mod access;
mod access_log;
mod admin;
mod attacks;
mod backup;
mod bodies;
mod caching;
mod charset;
mod check_config;
mod check_health;
mod cli;
mod client;
mod clocks;
mod cluster;
mod complete_upload;
mod configuration;
mod copy_file;
mod cors;
mod crash;
mod create_download_link;
mod create_link;
mod create_upload;
mod create_upload_links;
mod dashboards;
mod databases;
mod delete_file;
mod deploy;
mod describe_file;
mod describe_service;
mod describe_task;
mod disk_full;
mod divided;
mod doctor;
mod documentation;
mod download_file;
mod durability;
mod events;
mod examples;
mod explain;
mod faults;
mod forwarded_for;
mod fsck;
mod grpc;
mod grpcio;
mod hardening;
mod heads;
mod health;
mod idempotency;
mod import_go;
mod instant_upload;
mod json_bodies;
mod limits;
mod links;
mod list_files;
mod list_nodes;
mod list_tasks;
mod local_disk;
mod locate_content;
mod metrics;
mod model;
mod nodes;
mod openapi;
mod packs;
mod parts_in_place;
mod processing;
mod protocols;
mod prove_possession;
mod public_url;
mod queries;
mod quotas;
mod readme;
mod resumable;
mod retry_task;
mod revoke_links;
mod s3_api;
mod scrub;
mod serve;
mod shown;
mod slow_clients;
mod store_file;
mod stores;
mod swagger;
mod task_engine;
mod tasks;
mod tls;
mod torture;
mod traces;
mod tus;
mod tus_clients;
mod tus_concatenation;
mod tus_conformance;
mod tus_model;
mod update_file;
mod upload_file;
mod upload_grants;
mod upload_part;
mod upload_status;
mod version;
mod webhooks;
