//! `rime-gate run`: configuration, logs, signals.

use std::error::Error;
use std::io::IsTerminal;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::{DONE, NO, chain};
use crate::check;
use crate::config::{Checked, Config, Log, LogFormat, RunArguments, Surface, WhenFull};
use crate::gate::Gate;

/// Runs the gate until a signal ends it.
pub(super) async fn run(arguments: &RunArguments) -> u8 {
    let colour = std::io::stderr().is_terminal();
    let Checked { config, warnings, .. } = match check::load(arguments) {
        Ok(checked) => checked,
        Err(check::LoadError::Invalid(problems)) => {
            eprintln!("{}", problems.render(colour));
            return NO;
        }
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return error.exit_code();
        }
    };
    if warnings.count() > 0 {
        eprintln!("{}", warnings.render(colour));
    }
    log(&config.log);
    match serve(config).await {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            NO
        }
    }
}

/// What stands behind a listener of that surface.
fn behind(surface: Surface, config: &Config) -> String {
    let engine = &config.engine;
    match surface {
        Surface::Http => &engine.http,
        Surface::Grpc => &engine.grpc,
        Surface::WsJson => &engine.ws_json,
        Surface::WsBinary => &engine.ws_binary,
    }
    .to_string()
}

async fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    let limit = config.engine.concurrency_max;
    let observing = config.admission.when_full == WhenFull::Observe;
    let doors: Vec<_> = config.listeners.iter().map(|of| (of.surface, behind(of.surface, &config))).collect();
    let mut interrupts = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let gate = Gate::start(config)?;
    for (address, (surface, engine)) in gate.addresses().iter().zip(doors) {
        info!(%address, surface = surface.name(), %engine, limit, "listening");
    }
    if observing {
        warn!("observing: everybody is let in, and the limit protects nobody");
    }
    info!(admin = %gate.admin_address(), metrics = %gate.metrics_address(), "listening for operators");
    tell_systemd(NotifyState::Ready);
    next(&mut interrupts).await;
    tell_systemd(NotifyState::Stopping);
    tokio::select! {
        () = gate.drain() => {}
        () = next(&mut interrupts) => warn!("a second signal: stopping at once"),
    }
    Ok(())
}

async fn next([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn tell_systemd(state: NotifyState<'_>) {
    // Not started by systemd is no error, and there is nobody else to tell.
    let _ = sd_notify::notify(&[state]);
}

fn log(settings: &Log) {
    let filter = EnvFilter::new(settings.level.as_str());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    match settings.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
