//! The Lambda `cutover`.

fn main() -> std::process::ExitCode {
    krossing_serverless::serve(krossing_serverless::Lambda::Cutover)
}
