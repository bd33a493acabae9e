use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ErrorKind;

fn complete(name: &str) -> Value {
    match name {
        "paywall_impression" => json!({ "placement_id": "main_paywall", "variant": "half", "cohort": "depth:half" }),
        "exit_offer_triggered" => json!({ "trigger_type": "back", "variant": "half" }),
        "purchase_initiated" => json!({ "product_id": "pro", "offer_type": "none", "discount_pct": 0 }),
        "purchase_completed" => json!({
            "product_id": "pro", "revenue": 999, "currency": "USD", "is_trial": false, "discount_pct": 0
        }),
        "subscription_renewed" => json!({ "period": "P1M", "revenue": 999, "currency": "USD" }),
        _ => json!({}),
    }
}

fn fact(name: &str, properties: &Value) -> Fact {
    Fact::new(name, "ada", properties.to_string())
}

fn refused(name: &str, properties: &Value) -> String {
    let error = PaywallEvent::check_fact(&fact(name, properties)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    error.to_string()
}

#[test]
fn each_required_property_is_asked_for_by_name() {
    for name in PaywallEvent::NAMES {
        let properties = complete(name);
        let event = PaywallEvent::from_fact(&fact(name, &properties)).unwrap().unwrap();
        assert_eq!(event.name(), name);
        for (property, _) in properties.as_object().unwrap() {
            for without in [None, Some(Value::Null)] {
                let mut properties = properties.clone();
                properties.as_object_mut().unwrap().remove(property);
                if let Some(null) = without {
                    properties[property] = null;
                }
                let said = refused(name, &properties);
                assert!(said.contains(name) && said.contains(&format!("property: {property}")), "{said}");
            }
        }
    }
}

#[test]
fn what_is_out_of_range_or_of_another_type_is_refused() {
    let purchase = |property: &str, value: Value| {
        let mut properties = complete("purchase_completed");
        properties[property] = value;
        properties
    };
    for discount in [json!(-1), json!(101), json!(12.5), json!("50"), json!(true)] {
        assert!(refused("purchase_completed", &purchase("discount_pct", discount)).contains("discount_pct"));
    }
    for revenue in [json!(9.99), json!(999.0), json!("999"), json!(-999), json!(1_000_000_000_001_i64), json!(1e300)] {
        assert!(refused("purchase_completed", &purchase("revenue", revenue)).contains("revenue"));
    }
    for currency in [json!("usd"), json!("$"), json!(840)] {
        assert!(refused("purchase_completed", &purchase("currency", currency)).contains("currency"));
    }
    for product in [json!(""), json!("x".repeat(256)), json!(7)] {
        assert!(refused("purchase_completed", &purchase("product_id", product)).contains("product_id"));
    }
    let mut renewal = complete("subscription_renewed");
    renewal["period"] = json!("monthly");
    assert!(refused("subscription_renewed", &renewal).contains("period"));
    let mut exit = complete("exit_offer_triggered");
    exit["trigger_type"] = json!("rage");
    assert!(refused("exit_offer_triggered", &exit).contains("trigger_type"));
}

#[test]
fn a_refund_is_a_negative_amount_that_says_so() {
    for name in ["purchase_completed", "subscription_renewed"] {
        let with = |revenue: i64, is_refund: bool| {
            let mut properties = complete(name);
            properties["revenue"] = json!(revenue);
            properties["is_refund"] = json!(is_refund);
            PaywallEvent::check_fact(&fact(name, &properties)).is_ok()
        };
        assert!(with(999, false) && with(0, false) && with(-999, true));
        assert!(!with(-999, false) && !with(999, true) && !with(0, true));
    }
}

#[test]
fn names_of_the_app_pass_and_slips_do_not() {
    for name in ["workout_finished", "purchase_restored", "$screen", "купил"] {
        assert!(PaywallEvent::check_fact(&fact(name, &json!({ "any": [1, 2] }))).is_ok(), "{name}");
    }
    for slip in ["Purchase_Completed", "purchase-completed", "purchaseCompleted", "purchase.completed"] {
        assert!(refused(slip, &complete("purchase_completed")).contains("write purchase_completed"));
    }
    for properties in [json!([1]), json!("text"), json!(null)] {
        refused("workout_finished", &properties);
    }
    assert!(PaywallEvent::check_fact(&Fact::new("workout_finished", "ada", "{")).is_err());
}

#[test]
fn who_it_is_about_must_be_sayable() {
    for subject in ["", "a\0b", &"x".repeat(256), &"x".repeat(1 << 20)] {
        let error = PaywallEvent::check_fact(&Fact::new("workout_finished", subject, "{}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("field: subject") && error.to_string().len() < 300, "{error}");
    }
    let large = json!({ "text": "x".repeat(PaywallEvent::MAX_PROPERTIES) });
    let error = PaywallEvent::check_fact(&fact("workout_finished", &large)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn an_exposure_has_the_same_id_each_time_and_no_other_has_it() {
    let id = |subject: &str, experiment: &str, version| {
        let impression = PaywallImpression {
            placement_id: "main_paywall".into(),
            experiment: Some(experiment.into()),
            variant: format!("any {version}"),
            cohort: "any".into(),
            ..Default::default()
        };
        let fact = impression.exposure(subject, version);
        assert!(PaywallEvent::check_fact(&fact).is_ok());
        fact.id
    };
    // Phones and servers of different versions agree on it: it must never change. Checked with Python's hashlib.
    assert_eq!(id("ada", "depth", 0).to_string(), "cccae35e-c5ee-81bd-97db-93ad35da9f24");
    let ids = [id("ada", "depth", 0), id("ada", "depth", 1), id("ad", "adepth", 0), id("ada\",\"", "depth", 0)];
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
}

#[test]
fn other_properties_stay_with_the_fact() {
    let mut properties = complete("paywall_impression");
    properties["screen"] = json!({ "width": 1080 });
    assert!(PaywallEvent::check_fact(&fact("paywall_impression", &properties)).is_ok());
}

prop_compose! {
    fn text()(text in "[^\\p{Cc}]{1,40}") -> String { text }
}

fn event() -> impl Strategy<Value = PaywallEvent> {
    let maybe = || proptest::option::of(text());
    let money = (0..=MAX_REVENUE, any::<bool>()).prop_map(|(amount, refund)| {
        let is_refund = refund && amount > 0;
        (if is_refund { -amount } else { amount }, is_refund)
    });
    let currency = || "[A-Z]{3}".prop_map(|code| Currency::new(code).unwrap());
    prop_oneof![
        (text(), maybe(), text(), text(), any::<(bool, bool)>(), maybe()).prop_map(
            |(placement_id, experiment, variant, cohort, (is_exit_offer, shows_nothing), device)| {
                PaywallEvent::PaywallImpression(PaywallImpression {
                    placement_id,
                    experiment,
                    variant,
                    cohort,
                    is_exit_offer,
                    shows_nothing,
                    device,
                })
            }
        ),
        (text(), maybe(), maybe(), maybe()).prop_map(|(variant, placement_id, experiment, offering)| {
            let trigger_type = Trigger::Timeout;
            let properties = ExitOfferTriggered { trigger_type, variant, placement_id, experiment, offering };
            PaywallEvent::ExitOfferTriggered(properties)
        }),
        (text(), text(), 0..=100u8, maybe()).prop_map(|(product_id, offer_type, discount_pct, placement_id)| {
            let properties = PurchaseInitiated { product_id, offer_type, discount_pct, placement_id };
            PaywallEvent::PurchaseInitiated(properties)
        }),
        (text(), money.clone(), currency(), any::<bool>(), 0..=100u8, maybe(), maybe()).prop_map(
            |(product_id, (revenue, is_refund), currency, is_trial, discount_pct, placement_id, transaction_id)| {
                PaywallEvent::PurchaseCompleted(PurchaseCompleted {
                    product_id,
                    revenue,
                    currency,
                    is_trial,
                    discount_pct,
                    is_refund,
                    placement_id,
                    transaction_id,
                })
            }
        ),
        ("P[1-9][DWMY]", money, currency(), maybe(), maybe()).prop_map(
            |(period, (revenue, is_refund), currency, product_id, transaction_id)| {
                PaywallEvent::SubscriptionRenewed(SubscriptionRenewed {
                    period,
                    revenue,
                    currency,
                    is_refund,
                    product_id,
                    transaction_id,
                })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn an_event_comes_back_from_its_fact_whole(event in event(), subject in "[a-z0-9|-]{1,60}") {
        let fact = event.to_fact(subject.clone());
        prop_assert!(PaywallEvent::check_fact(&fact).is_ok());
        prop_assert_eq!(&fact.subject, &subject);
        prop_assert_eq!(PaywallEvent::from_fact(&fact).unwrap(), Some(event));
    }

    #[test]
    fn no_properties_make_a_check_panic(name in prop::sample::select(PaywallEvent::NAMES.to_vec()), json in "\\PC{0,60}") {
        let _ = PaywallEvent::check_fact(&Fact::new(name, "ada", json));
    }
}
