//! The Fargate worker.

fn main() -> std::process::ExitCode {
    krossing_serverless::worker()
}
