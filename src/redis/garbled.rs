//! Answers that a server of another kind, or with other data, may give.

use proptest::collection::vec;
use proptest::prelude::*;

use super::Value;

/// Any answer; often a list of numbers, which is what scripts give.
pub fn garbled() -> impl Strategy<Value = Value> {
    let number = prop_oneof![any::<i64>(), -2_i64..150];
    let leaf = prop_oneof![
        number.clone().prop_map(Value::Int),
        vec(any::<u8>(), 0..9).prop_map(Value::BulkString),
        "[0-9a-z]{0,9}".prop_map(Value::SimpleString),
        any::<bool>().prop_map(Value::Boolean),
        any::<f64>().prop_map(Value::Double),
        Just(Value::Nil),
        Just(Value::Okay),
    ];
    let list = vec(leaf.clone(), 0..7).prop_map(Value::Array);
    let numbers = vec(number.prop_map(Value::Int), 2..7).prop_map(Value::Array);
    prop_oneof![1 => leaf, 1 => list, 4 => numbers]
}
