use std::{
    borrow::Borrow,
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// Something of each value that a label has. Who finds what is there shares the lock with all others who do; it is held
/// alone only when a value appears for the first time.
#[derive(Debug)]
pub(super) struct ByLabel<K, V>(RwLock<BTreeMap<K, Arc<V>>>);

impl<K, V> Default for ByLabel<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Ord + Clone, V: Default> ByLabel<K, V> {
    /// What belongs to a value.
    pub(super) fn of<Q>(&self, label: &Q) -> Arc<V>
    where
        K: Borrow<Q>,
        Q: Ord + ToOwned<Owned = K> + ?Sized,
    {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(label).cloned();
        known.unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(label.to_owned()).or_default().clone()
        })
    }

    /// Everything that there is, in the order of the labels.
    pub(super) fn all(&self) -> Vec<(K, Arc<V>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(label, value)| (label.clone(), value.clone())).collect()
    }
}
