//! The program: arguments, configuration, exit codes.

use std::{
    env,
    error::Error,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use redis_gateway::{
    commands::{self, Exit},
    config::{self, Config, Listen, Loaded, Problem},
    embedded,
    gateway::{self, Listeners},
    telemetry,
};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type AnyError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let matches = match commands::grammar().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            // Nobody is there to read it: nothing else to do about that.
            let _ = e.print();
            return if e.use_stderr() {
                Exit::Misconfigured
            } else {
                Exit::Fine
            }
            .into();
        }
    };
    if let None | Some("serve") = matches.subcommand_name() {
        match config::load(&matches, env::vars_os()).map(serve) {
            Err(problems) => {
                eprintln!("{problems}");
                Exit::Misconfigured
            }
            Ok(Ok(())) => Exit::Fine,
            Ok(Err(e)) => {
                eprintln!("redis-gateway: {e}");
                Exit::Found
            }
        }
    } else {
        commands::run(&matches, env::vars_os())
    }
    .into()
}

/// Serves until SIGTERM or SIGINT, and drains; a second SIGINT ends it at once.
fn serve(loaded: Loaded) -> Result<(), AnyError> {
    let Loaded { config, warnings, .. } = loaded;
    let runtime = new_runtime()?;
    let served = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = CancellationToken::new();
        let interrupted = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
            interrupt.recv().await
        };
        tokio::select! {
            served = run(config, &warnings, stop.clone()) => served,
            _ = interrupted => Err("interrupted before the end of the drain".into()),
        }
    });
    // What a second SIGINT cut short is not waited for.
    runtime.shutdown_background();
    served
}

/// A thread for each core, without the slot that runs first who was woken last: a command, or an answer, would leave in a system
/// call of its own instead of together with those of other calls. See `.cargo/config.toml` and benches/.
fn new_runtime() -> io::Result<Runtime> {
    let mut builder = runtime::Builder::new_multi_thread();
    #[cfg(tokio_unstable)]
    builder.disable_lifo_slot();
    builder.enable_all().build()
}

async fn run(config: Config, warnings: &[Problem], stop: CancellationToken) -> Result<(), AnyError> {
    let telemetry = telemetry::init(&config.telemetry)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let listeners = Listeners::bind(&config).await?;
    let embedded = match &config.embedded {
        None => None,
        Some(settings) => tokio::select! {
            embedded = embedded::start(settings) => Some(embedded?),
            // Dropped on its way, it ends by itself.
            () = stop.cancelled() => return Ok(()),
        },
    };
    announce(&config, &listeners)?;
    let served = gateway::run(config, listeners, stop.cancelled_owned()).await;
    // Last, since calls need it to the end of the drain.
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    telemetry.shutdown().await;
    Ok(served?)
}

/// Says where the gateway listens, and to people what to type next.
fn announce(config: &Config, listeners: &Listeners) -> io::Result<()> {
    let admin = listeners.admin_addr()?;
    let bound = listeners.grpc_addr();
    let listen = bound.map_or_else(|| config.grpc.listen.clone(), Listen::Tcp);
    let call = listen.called();
    let grpc = bound.map_or_else(|| call.clone(), |addr| addr.to_string());
    tracing::info!(%grpc, %admin, "listening");
    let mut out = io::stdout();
    if config.embedded.is_none() && !out.is_terminal() {
        return Ok(());
    }
    let page = Listen::Tcp(admin).called();
    let program = env::args_os().next().unwrap_or_else(|| "redis-gateway".into());
    let program = program.display();
    let redis = config.embedded.as_ref().map_or_else(String::new, |embedded| {
        format!("  redis-cli -s {} ping\n", embedded.socket().display())
    });
    let python = format!("GATEWAY={call} .venv/bin/python examples/python");
    let text = format!(
        "\ngRPC on {grpc}; http://{page} shows how it goes (/metrics is for Prometheus); Ctrl-C ends it\n\nNext, from a shell:\n  \
         {program} health --address {call}\n{redis}\nFrom Python, after `make python-stubs`:\n  {python}/append.py 1 \
         build.log\n  {python}/tail.py 1\n\n"
    );
    // Whether or not someone reads it, calls are served.
    let _ = out.write_all(text.as_bytes());
    Ok(())
}
