//! The Lambda `recover`.

fn main() -> std::process::ExitCode {
    krossing_serverless::serve(krossing_serverless::Lambda::Recover)
}
