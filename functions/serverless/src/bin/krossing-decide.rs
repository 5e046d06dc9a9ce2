//! The Lambda `decide`.

fn main() -> std::process::ExitCode {
    krossing_serverless::serve(krossing_serverless::Lambda::Decide)
}
