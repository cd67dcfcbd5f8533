//! Images of davit restored by runc, and the other way round.

use std::path::Path;

use davit_tests::criu::{CriuWorld, QUIET, count, counting, counts_on};
use davit_tests::{View, newest_runc, skip};
use serde_json::json;

#[test]
fn with_runc() {
    let test = "checkpoint::interop::with_runc";
    let Some(world) = CriuWorld::enter(test) else { return };
    let runc = match newest_runc() {
        Ok(runc) => runc,
        Err(reason) => return skip(test, &reason).unwrap_or_default(),
    };
    let davit = world.world.runtime().to_owned();
    // runc takes what CRIU does without iptables from here only.
    let options = world.world.path("criu.conf");
    std::fs::write(&options, "network-lock nftables\n").unwrap();
    let pairs: [(&Path, &Path, &Path); 4] =
        [(&runc, &runc, &davit), (&davit, &davit, &runc), (&runc, &davit, &davit), (&davit, &runc, &davit)];
    let views = [(View::Host, false), (View::PureV2, false), (View::PureV2, true)];
    for (at, ((view, own_cgroups), (runs, writes, restores))) in
        views.into_iter().flat_map(|view| pairs.map(|pair| (view, pair))).enumerate()
    {
        let mut bundle = counting(&world);
        bundle.set("/annotations", json!({"org.criu.config": options}));
        if own_cgroups {
            bundle.push("/linux/namespaces", json!({"type": "cgroup"}));
        }
        let mut c = world.world.container(&bundle);
        c.view = view;
        let dir = bundle.dir().to_str().unwrap();
        world.call(&c, "run", &["--detach", "--bundle", dir]).wrapper(&QUIET).with(runs).run().ok();
        counts_on(&bundle, 0);
        let images = format!("img-{at}");
        world.checkpoint(&c, &images, &[]).with(writes).run().ok();
        let reached = count(&bundle);
        world.restore(&c, &images, &[]).with(restores).run().ok();
        counts_on(&bundle, reached);
        assert_eq!(c.status(), "running", "{at}");
        assert_eq!(c.call("state", &[], &[]).with(&runc).run().ok().json()["status"], "running", "{at}");
        c.finish();
    }
}
