//! Compiles `proto/` without protoc, and turns each method's options into the table that the layers look calls up in.

use std::fmt::Write as _;
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut protos: Vec<PathBuf> = fs::read_dir("proto/redisgateway/v1")?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    protos.sort();

    let descriptors = protox::compile(&protos, ["proto"])?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("methods.rs"), methods(&descriptors)?)?;
    // `bytes` as reference-counted slices: a value goes from Redis' reply to the caller without a copy.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

/// One `Method` for each RPC; see `src/layer/method.rs`.
fn methods(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut table =
        String::from("/// Every method of every service in `proto/`.\npub static METHODS: &[Method] = &[\n");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let level = method
                    .options
                    .as_ref()
                    .map_or("IDEMPOTENCY_UNKNOWN", |o| o.idempotency_level().as_str_name());
                let pattern = file
                    .name()
                    .rsplit('/')
                    .next()
                    .and_then(|name| name.strip_suffix(".proto"))
                    .ok_or("a proto file without a name")?;
                writeln!(
                    table,
                    "    Method {{ path: \"/{}.{}/{}\", service: \"{}\", name: \"{}\", pattern: \"{}\", retry_safe: {}, streaming: {}, client_streaming: {} }},",
                    file.package(),
                    service.name(),
                    method.name(),
                    service.name(),
                    method.name(),
                    pattern,
                    level != "IDEMPOTENCY_UNKNOWN",
                    method.client_streaming() || method.server_streaming(),
                    method.client_streaming(),
                )?;
            }
        }
    }
    table.push_str("];\n");
    Ok(table)
}
