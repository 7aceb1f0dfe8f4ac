//! Throughput, CPU and memory.

fn main() {}
