//! Why revenue changed: more purchases, other prices, other products, deeper discounts.

use std::collections::BTreeMap;

use serde::Serialize;

/// What one arm sold of one product.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sales {
    /// Users who converted.
    pub conversions: u64,
    /// What they paid.
    pub revenue: f64,
    /// What they would have paid without a discount.
    pub list: f64,
}

impl Sales {
    /// Adds a conversion that paid `revenue` after a discount of `discount` percent. After 100 percent the list price is
    /// not known, and counts as 0.
    pub fn add(&mut self, revenue: f64, discount: f64, converted: bool) {
        self.conversions += u64::from(converted);
        self.revenue += revenue;
        self.list += if discount < 100.0 { revenue / (1.0 - discount / 100.0) } else { 0.0 };
    }
}

/// The change of revenue per user, in parts that add up to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Decomposition {
    /// The change of revenue per user.
    pub change: f64,
    /// Because more or fewer users convert.
    pub volume: f64,
    /// Because list prices differ, within a product.
    pub price: f64,
    /// Because discounts differ, within a product.
    pub discount: f64,
    /// Because other products are bought.
    pub mix: f64,
    /// The share of users who convert, in the control and in the treated arm.
    pub conversion: [f64; 2],
    /// Revenue for each conversion, in both.
    pub revenue_per_conversion: [f64; 2],
}

/// Takes the change of revenue per user apart.
///
/// T. L. Bennet, "The theory of measurement of changes in cost of living", JRSS 83 (1920): each factor's change is
/// weighted with the mean of the others over both arms, so that nothing is left over, and neither arm is the base.
/// A product that one arm did not sell has the other's price there: its whole change is mix.
///
/// ```
/// use std::collections::BTreeMap;
/// use selvedge_experiments::analysis::{Sales, decompose};
///
/// // The article's variants, 100,000 users each: 3.2 % pay $60, and 5.8 % pay $25.
/// let sales = |conversions, price: f64, discount| {
///     let mut sales = Sales::default();
///     (0..conversions).for_each(|_| sales.add(price, discount, true));
///     BTreeMap::from([(String::new(), sales)])
/// };
/// let change = decompose((&sales(3_200, 60.0, 0.0), 100_000), (&sales(5_800, 25.0, 50.0), 100_000));
/// assert!((change.change - -0.47).abs() < 1e-9);
/// assert!((change.volume - 1.105).abs() < 1e-9 && (change.price + change.discount - -1.575).abs() < 1e-9);
/// ```
pub fn decompose(
    (control, control_users): (&BTreeMap<String, Sales>, u64),
    (treated, treated_users): (&BTreeMap<String, Sales>, u64),
) -> Decomposition {
    let arms = [(control, control_users as f64), (treated, treated_users as f64)];
    let all = arms.map(|(products, _)| products.values().map(|sales| sales.conversions).sum::<u64>() as f64);
    let revenue = arms.map(|(products, _)| products.values().map(|sales| sales.revenue).sum::<f64>());
    let over = |top: f64, bottom: f64| if bottom == 0.0 { 0.0 } else { top / bottom };
    let conversion = [0, 1].map(|arm| over(all[arm], arms[arm].1));
    let per_conversion = [0, 1].map(|arm| over(revenue[arm], all[arm]));
    let per_user = [0, 1].map(|arm| over(revenue[arm], arms[arm].1));
    let mean = |[left, right]: [f64; 2]| 0.5 * (left + right);
    let change = |[left, right]: [f64; 2]| right - left;
    let rate = mean(conversion);
    let mut parts = Decomposition {
        change: change(per_user),
        volume: change(conversion) * mean(per_conversion),
        price: 0.0,
        discount: 0.0,
        mix: 0.0,
        conversion,
        revenue_per_conversion: per_conversion,
    };
    let names = control.keys().chain(treated.keys().filter(|name| !control.contains_key(*name)));
    for name in names {
        let sales = arms.map(|(products, _)| products.get(name).copied().unwrap_or_default());
        let share = [0, 1].map(|arm| over(sales[arm].conversions as f64, all[arm]));
        let mut list = sales.map(|sales| over(sales.list, sales.conversions as f64));
        let mut kept = sales.map(|sales| if sales.list == 0.0 { 1.0 } else { sales.revenue / sales.list });
        for arm in [0, 1] {
            if sales[arm].conversions == 0 {
                (list[arm], kept[arm]) = (list[1 - arm], kept[1 - arm]);
            }
        }
        let paid = [0, 1].map(|arm| list[arm] * kept[arm]);
        parts.price += rate * mean(share) * change(list) * mean(kept);
        parts.discount += rate * mean(share) * change(kept) * mean(list);
        parts.mix += rate * change(share) * mean(paid);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arm() -> impl Strategy<Value = BTreeMap<String, Sales>> {
        let sale = (1u64..500, 0.5..100.0f64, 0.0..90.0f64);
        proptest::collection::btree_map("[abc]", sale, 0..4).prop_map(|products| {
            products
                .into_iter()
                .map(|(name, (conversions, price, discount))| {
                    let revenue = price * conversions as f64;
                    (name, Sales { conversions, revenue, list: revenue / (1.0 - discount / 100.0) })
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_parts_add_up(a in arm(), b in arm()) {
            let found = decompose((&a, 1_000), (&b, 1_500));
            let parts = found.volume + found.price + found.discount + found.mix;
            prop_assert!((parts - found.change).abs() < 1e-9, "{found:?}");
            let back = decompose((&b, 1_500), (&a, 1_000));
            prop_assert!((back.volume + found.volume).abs() < 1e-9 && (back.mix + found.mix).abs() < 1e-9);
        }
    }

    #[test]
    fn each_cause_is_told() {
        let one = |conversions: u64, list: f64, kept: f64| {
            let list = list * conversions as f64;
            BTreeMap::from([("year".to_owned(), Sales { conversions, revenue: list * kept, list })])
        };
        let base = one(50, 60.0, 1.0);
        let only = |found: Decomposition, part: f64| {
            assert!((found.change - part).abs() < 1e-12 && part != 0.0, "{found:?}");
        };
        let volume = decompose((&base, 1_000), (&one(60, 60.0, 1.0), 1_000));
        only(volume, volume.volume);
        let price = decompose((&base, 1_000), (&one(50, 50.0, 1.0), 1_000));
        only(price, price.price);
        let discount = decompose((&base, 1_000), (&one(50, 60.0, 0.5), 1_000));
        only(discount, discount.discount);
        let other = BTreeMap::from([("month".to_owned(), Sales { conversions: 50, revenue: 500.0, list: 500.0 })]);
        let mix = decompose((&base, 1_000), (&other, 1_000));
        only(mix, mix.mix);
    }
}
