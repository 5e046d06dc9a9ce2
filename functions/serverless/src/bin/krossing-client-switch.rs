//! The Lambda `client-switch`.

fn main() -> std::process::ExitCode {
    krossing_serverless::serve(krossing_serverless::Lambda::ClientSwitch)
}
