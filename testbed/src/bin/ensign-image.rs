//! `make image`: the images of agent and RA, each with its bill of materials, from programs that were built before.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use ensign_testbed::image::{Compression, ours};

/// Writes OCI image archives; asks nobody, needs no daemon and no network.
#[derive(Debug, Parser)]
struct Args {
    /// Folder with the programs ensign-agent and ensign-ra
    #[arg(long)]
    programs: PathBuf,
    /// The crypto provider that they were built with: `ring` or `aws-lc-rs`
    #[arg(long)]
    provider: String,
    /// Folder for the images
    #[arg(long)]
    out: PathBuf,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a person reads what was made, or why not"
)]
fn main() -> ExitCode {
    let args = Args::parse();
    match ours::write(&args.programs, &args.provider, &args.out, Compression::Gzip) {
        Ok(made) => {
            for image in made {
                let written = &image.written;
                println!("{} {}", image.name, written.digest);
                println!(
                    "  {} ({} compressed, {} on a node), bill of materials {}",
                    written.archive.display(),
                    megabytes(written.size),
                    megabytes(written.unpacked),
                    image.bill.display()
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ensign-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// With one decimal.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
