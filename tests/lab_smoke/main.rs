//! The lab itself.
use lab::{Cluster, ClusterSpec, Security, Version, in_lab};
use std::time::Instant;

fn main_spec() -> Vec<(&'static str, ClusterSpec)> {
    let one = ClusterSpec::default();
    let three = ClusterSpec { brokers: 3, ..one.clone() };
    let tls = ClusterSpec { security: Security::Tls, authorizer: true, ..one.clone() };
    vec![("1", one), ("3", three), ("tls", tls)]
}

#[test]
#[ignore = "timing"]
fn start_times() {
    for (name, spec) in main_spec() {
        let begun = Instant::now();
        in_lab("starts", async |lab| {
            let cluster: Cluster = lab.zookeeper_cluster(spec.clone()).await?;
            println!("zookeeper {name}: {:?}", cluster.started_in);
            drop(cluster);
            let cluster = lab.kraft_cluster(spec.clone()).await?;
            println!("kraft 3.9 {name}: {:?}", cluster.started_in);
            drop(cluster);
            let cluster = lab.kraft_cluster(ClusterSpec { version: Version::V4_1, ..spec.clone() }).await?;
            println!("kraft 4.1 {name}: {:?}", cluster.started_in);
            Ok(())
        });
        println!("{name}: {:?}", begun.elapsed());
    }
}
