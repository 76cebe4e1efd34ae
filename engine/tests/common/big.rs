//! A random workload on objects that cross between the forms.

use dovehouse_engine::{Error, Object, PAGE_BYTES};

use super::Model;

/// Sizes around the limits of values in a node, of blocks, of tiny objects, and of what a record carries.
pub(crate) fn size(rng: &mut fastrand::Rng) -> usize {
    let around = [0, 10, 1024, 4096, 8 << 10, 14 << 10, 30 << 10][rng.usize(0..7)];
    (around + rng.usize(0..5)).saturating_sub(2)
}

/// Applies one random change to an object of either form, and to its model.
pub(crate) fn change(
    object: &mut Object,
    model: &mut Model,
    rng: &mut fastrand::Rng,
) -> Result<(), Error> {
    match rng.u8(0..20) {
        0..5 => {
            let key = format!("key-{:02}", rng.u8(0..30)).into_bytes();
            let value = vec![rng.u8(..); size(rng)];
            object.put(&key, &value)?;
            model.kv.insert(key, value);
        }
        5..8 => {
            // Many small keys fill several nodes.
            let (first, step) = (rng.u32(0..500), rng.u32(1..4));
            for number in 0..rng.u32(1..80) {
                let key = format!("many-{:05}", first + number * step).into_bytes();
                let value = vec![rng.u8(..); rng.usize(0..60)];
                object.put(&key, &value)?;
                model.kv.insert(key, value);
            }
        }
        8..11 => {
            let from = format!("many-{:05}", rng.u32(0..500)).into_bytes();
            let gone: Vec<_> = model.kv.range(from..).take(rng.usize(1..100)).collect();
            let gone: Vec<_> = gone.into_iter().map(|(key, _)| key.clone()).collect();
            for key in gone {
                assert!(object.delete(&key)?);
                model.kv.remove(&key);
            }
            assert!(!object.delete(b"nothing")?);
        }
        11..16 => {
            let number = [rng.u32(1..4), rng.u32(1..20), rng.u32(505..520)][rng.usize(0..3)];
            let mut page = vec![0; PAGE_BYTES];
            if let Some(old) = object.page(number)? {
                page.copy_from_slice(&old);
            }
            if rng.u8(0..8) == 0 {
                page.fill(0);
            } else {
                rng.fill(&mut page[..rng.clone().usize(1..PAGE_BYTES)]);
            }
            object.write_page(number, &page)?;
            let count = model.pages.len().max(number as usize);
            model.pages.resize(count, None);
            model.pages[number as usize - 1] = page.iter().any(|byte| *byte != 0).then_some(page);
        }
        16..18 => {
            let count = rng.u32(0..24);
            object.truncate_pages(count);
            model.pages.truncate(count as usize);
        }
        18 => super::change(object, model, rng),
        _ => {
            object.clear(false);
            *model = Model::default();
        }
    }
    Ok(())
}
