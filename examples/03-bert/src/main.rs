//! Runs the recorded batch of sentences and compares what comes out with what was recorded.

use bert::{Bert, BertInputs};
use std::collections::BTreeMap;
use std::error::Error;

/// A recorded tensor: its extents, and its elements as text.
type Entry<'a> = ([usize; 2], Vec<&'a str>);

/// Lines such as `input_ids 2 12 : 18 1 95 ..`.
fn parse(text: &str) -> Result<BTreeMap<&str, Entry<'_>>, Box<dyn Error>> {
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let (head, elements) = line.split_once(" : ").ok_or("a line without a colon")?;
        let [name, rows, columns] = head.split(' ').collect::<Vec<_>>()[..] else { return Err("a line without extents".into()) };
        out.insert(name, ([rows.parse()?, columns.parse()?], elements.split(' ').collect()));
    }
    Ok(out)
}

/// The inputs and the output that were recorded.
struct Record {
    dims: [usize; 2],
    ids: Vec<i64>,
    mask: Vec<i64>,
    types: Vec<i64>,
    pooled: Vec<f32>,
}

impl Record {
    fn read() -> Result<Record, Box<dyn Error>> {
        let entries = parse(include_str!("../record.txt"))?;
        let words = |name: &str| entries.get(name).ok_or("an entry is missing");
        let integers = |name: &str| words(name)?.1.iter().map(|w| Ok(w.parse()?)).collect::<Result<Vec<i64>, Box<dyn Error>>>();
        Ok(Record {
            dims: words("input_ids")?.0,
            ids: integers("input_ids")?,
            mask: integers("attention_mask")?,
            types: integers("token_type_ids")?,
            pooled: words("pooler_output")?.1.iter().map(|w| w.parse()).collect::<Result<_, _>>()?,
        })
    }
    fn inputs(&self) -> BertInputs<'_> {
        BertInputs { ids: (&self.ids, self.dims).into(), mask: (&self.mask, self.dims).into(), types: (&self.types, self.dims).into() }
    }
}

/// The largest difference between two slices.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn main() -> Result<(), Box<dyn Error>> {
    let record = Record::read()?;
    let mut net = Bert::new()?;
    let out = net.run(record.inputs())?;
    let [_, hidden] = out.pooler_output.shape();
    for (i, row) in out.pooler_output.chunks_exact(hidden).enumerate() {
        println!("sentence {i}: {:.4?} ..", &row[..6]);
    }
    println!("largest difference from the record: {:e}", distance(&out.pooler_output, &record.pooled));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_reproduced() {
        let record = Record::read().unwrap();
        let mut net = Bert::new().unwrap();
        let out = net.run(record.inputs()).unwrap();
        assert_eq!(out.pooler_output.shape(), [record.dims[0], 64]);
        let d = distance(&out.pooler_output, &record.pooled);
        assert!(d <= 1e-4, "{d}");
    }

    #[test]
    fn one_instance_runs_every_batch() {
        let record = Record::read().unwrap();
        let [_, seq] = record.dims;
        let mut net = Bert::new().unwrap();
        for batch in (1..=8).chain([3, 1]) {
            // The first recorded sentence, as often as the batch is large.
            let times = |v: &[i64]| v[..seq].repeat(batch);
            let (ids, mask, types) = (times(&record.ids), times(&record.mask), times(&record.types));
            let dims = [batch, seq];
            let out = net.run(BertInputs { ids: (&ids, dims).into(), mask: (&mask, dims).into(), types: (&types, dims).into() }).unwrap();
            assert_eq!(out.pooler_output.shape(), [batch, 64]);
            assert_eq!(out.last_hidden_state.shape(), [batch, seq, 64]);
            for row in out.pooler_output.chunks_exact(64) {
                assert!(distance(row, &record.pooled[..64]) <= 1e-4, "batch {batch}");
            }
        }
        let (ids, dims) = (vec![1; 9 * seq], [9, seq]);
        assert!(net.run(BertInputs { ids: (&ids, dims).into(), mask: (&ids, dims).into(), types: (&ids, dims).into() }).is_err());
    }
}
