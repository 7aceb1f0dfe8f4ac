use std::{
    borrow::Borrow,
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// One value per label. Lookups share a read lock; the write lock is taken only when a label
/// appears for the first time.
#[derive(Debug)]
pub(super) struct ByLabel<K, V>(RwLock<BTreeMap<K, Arc<V>>>);

impl<K, V> Default for ByLabel<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Ord + Clone, V: Default> ByLabel<K, V> {
    /// The value of a label, created on first use.
    pub(super) fn get_or_default<Q>(&self, label: &Q) -> Arc<V>
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

    /// All values, ordered by label.
    pub(super) fn all(&self) -> Vec<(K, Arc<V>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(label, value)| (label.clone(), value.clone())).collect()
    }
}
