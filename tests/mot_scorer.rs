//! The scorer of the tracking tests reproduces py-motmetrics' own expectation.

mod common;
#[path = "common/mot.rs"]
mod mot;

#[test]
fn the_scorer_reproduces_py_motmetrics() {
    let Some(root) = common::shared_data("tracking/motmetrics") else { return };
    let text = std::fs::read_to_string(root.join("expected.json")).expect("expected.json");
    let expected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let sequences = ["TUD-Campus", "TUD-Stadtmitte"];
    let mut scored: Vec<(&str, mot::Counts)> = sequences
        .into_iter()
        .map(|name| {
            (
                name,
                mot::score(&mot::read(&root.join(name).join("gt.txt")), &mot::read(&root.join(name).join("test.txt"))),
            )
        })
        .collect();
    scored.push(("OVERALL", scored[0].1 + scored[1].1));
    for (name, c) in scored {
        let counts = [
            ("num_unique_objects", c.unique_objects),
            ("mostly_tracked", c.mostly_tracked),
            ("partially_tracked", c.partially_tracked),
            ("mostly_lost", c.mostly_lost),
            ("num_false_positives", c.false_positives),
            ("num_misses", c.misses),
            ("num_switches", c.switches),
            ("num_fragmentations", c.fragmentations),
        ];
        for (key, value) in counts {
            assert_eq!(expected[name][key].as_u64(), Some(value as u64), "{name} {key}");
        }
        let ratios = [
            ("idf1", c.idf1()),
            ("idp", c.idp()),
            ("idr", c.idr()),
            ("recall", c.recall()),
            ("precision", c.precision()),
            ("mota", c.mota()),
            ("motp", c.motp()),
        ];
        for (key, value) in ratios {
            let printed = expected[name][key].as_f64().expect("a number");
            // The expectation is printed with six decimals.
            assert_eq!(format!("{value:.6}"), format!("{printed:.6}"), "{name} {key}");
        }
    }
}
