//! Definition files of both syntaxes.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

// By its path: the crate around it links compressors and a client of registries,
// which would be built for nothing.
#[allow(dead_code, unused_imports)]
#[path = "../../bootstrap/src/definition/mod.rs"]
mod definition;

use definition::{Argument, Definition};

fuzz_target!(|data: &[u8]| {
    let given = vec![Argument {
        name: "A".to_owned(),
        value: "b c".to_owned(),
        given_by: "--build-arg".to_owned(),
    }];
    for given in [Vec::new(), given] {
        match Definition::parse(Path::new("x"), data, &given) {
            Ok(definition) => {
                assert!(!definition.stages.is_empty());
                assert!(definition::is_definition(data));
            }
            Err(error) => {
                let text = error.to_string();
                let place = text.strip_prefix("x:").expect("the file is named");
                let mut numbers = place.split(':').map(str::parse::<usize>);
                assert!(matches!(numbers.next(), Some(Ok(line)) if line > 0));
                assert!(matches!(numbers.next(), Some(Ok(column)) if column > 0));
                assert!(error.remedy().is_some_and(|hint| !hint.is_empty()));
            }
        }
    }
});
