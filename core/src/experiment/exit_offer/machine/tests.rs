use proptest::prelude::*;

use super::*;

type ByPlatform<V> = std::collections::BTreeMap<Platform, V>;

fn second(n: i64) -> Timestamp {
    Timestamp(n * 1_000_000)
}

fn paywall() -> ExitInput {
    ExitInput::PaywallShown {
        placement: "main_paywall".into(),
        offering: Some("annual".into()),
        experiment: Some("depth".into()),
        variant: "half".into(),
    }
}

fn on() -> ExitOfferSettings {
    ExitOfferSettings { enabled: true, max_per_session: 9, max_per_day: 9, ..Default::default() }
}

/// A paywall on screen with everything loaded.
fn ready(platform: Platform, settings: ExitOfferSettings) -> ExitOffer {
    let mut exit = ExitOffer::new(platform);
    exit.configure(settings);
    load(&mut exit, second(0), "annual_half");
    exit
}

fn load(exit: &mut ExitOffer, at: Timestamp, offering: &str) {
    exit.on(at, paywall());
    let revision = exit.revision;
    exit.on(at, ExitInput::OfferLoaded { revision, offering: Some(offering.into()) });
    exit.on(at, ExitInput::EligibilityKnown { revision, eligibility: Eligibility::Eligible });
}

fn let_go(reason: Declined) -> Vec<ExitAction> {
    vec![ExitAction::LetGo { reason }]
}

fn offered(actions: &[ExitAction]) -> bool {
    matches!(actions, [ExitAction::ShowOffer { .. }, ExitAction::Record { .. }])
}

#[test]
fn who_goes_back_is_offered_once_and_then_let_go() {
    let mut exit = ready(Platform::Android, on());
    let event = ExitOfferTriggered {
        trigger_type: Trigger::Back,
        variant: "half".into(),
        placement_id: Some("main_paywall".into()),
        experiment: Some("depth".into()),
        offering: Some("annual_half".into()),
    };
    let show = ExitAction::ShowOffer {
        placement: "exit_offer".into(),
        offering: "annual_half".into(),
        trigger: Trigger::Back,
    };
    assert_eq!(exit.on(second(1), ExitInput::Back), [show, ExitAction::Record { event }]);
    assert_eq!(exit.on(second(2), ExitInput::Back), let_go(Declined::OfferShown));
    assert_eq!(exit.on(second(3), ExitInput::Back), let_go(Declined::NoPaywall));
}

#[test]
fn a_paywall_asks_for_what_a_later_decision_needs() {
    let mut exit = ExitOffer::new(Platform::Ios);
    assert_eq!(exit.on(second(0), paywall()), [], "nothing, when there will be no offer");
    exit.configure(on());
    let placement = String::from("exit_offer");
    let asked = [
        ExitAction::LoadOffer { placement: placement.clone(), revision: 2 },
        ExitAction::CheckEligibility { placement, revision: 2 },
    ];
    assert_eq!(exit.on(second(1), paywall()), asked);
}

#[test]
fn every_guard_keeps_its_offer_back() {
    let declined =
        |platform, settings: ExitOfferSettings, trigger| ready(platform, settings).declined(second(1), trigger);
    let back = |settings| declined(Platform::Android, settings, Trigger::Back);
    assert_eq!(back(on()), None);
    assert_eq!(back(ExitOfferSettings { enabled: false, ..on() }), Some(Declined::Disabled));
    assert_eq!(back(ExitOfferSettings { max_per_session: 0, ..on() }), Some(Declined::SessionCap));
    assert_eq!(back(ExitOfferSettings { max_per_day: 0, ..on() }), Some(Declined::DayCap));
    assert_eq!(declined(Platform::Android, on(), Trigger::Swipe), Some(Declined::OtherTrigger));
    assert_eq!(declined(Platform::Ios, on(), Trigger::Back), Some(Declined::OtherTrigger));
    assert_eq!(declined(Platform::Ios, on(), Trigger::Swipe), None);

    let mut same = ready(Platform::Android, on());
    load(&mut same, second(1), "annual");
    assert_eq!(same.declined(second(2), Trigger::Back), Some(Declined::SameOffering), "what the paywall sells");
    load(&mut same, second(1), "annual_half");
    assert!(offered(&same.on(second(2), ExitInput::Back)));
    load(&mut same, second(3), "annual_half");
    assert_eq!(same.declined(second(4), Trigger::Back), Some(Declined::SameOffering), "what was just offered");

    let mut shows_nothing = ready(Platform::Android, on());
    shows_nothing.on(second(1), ExitInput::OfferLoaded { revision: 1, offering: None });
    assert_eq!(shows_nothing.declined(second(1), Trigger::Back), Some(Declined::NotLoaded));
}

#[test]
fn eligibility_is_one_of_four_and_does_not_last() {
    let with = |eligibility, settings| {
        let mut exit = ready(Platform::Android, settings);
        exit.on(second(1), ExitInput::EligibilityKnown { revision: 1, eligibility });
        exit
    };
    let back = |exit: &ExitOffer, at| exit.declined(second(at), Trigger::Back);
    assert_eq!(back(&with(Eligibility::Eligible, on()), 600), None);
    assert_eq!(back(&with(Eligibility::Eligible, on()), 601), Some(Declined::EligibilityExpired));
    assert_eq!(back(&with(Eligibility::Eligible, on()), -601), Some(Declined::EligibilityExpired), "clock set back");
    assert_eq!(back(&with(Eligibility::Ineligible, on()), 2), Some(Declined::Ineligible));
    assert_eq!(back(&with(Eligibility::NoOffer, on()), 2), Some(Declined::NoOffer));
    assert_eq!(back(&with(Eligibility::Unknown, on()), 2), Some(Declined::UnknownEligibility));
    let lenient = ExitOfferSettings { offer_when_unknown: true, ..on() };
    assert_eq!(back(&with(Eligibility::Unknown, lenient.clone()), 2), None);
    assert_eq!(back(&with(Eligibility::Ineligible, lenient), 2), Some(Declined::Ineligible));
}

#[test]
fn the_purchase_sheet_is_not_leaving_and_who_bought_is_left_alone() {
    let both = ByPlatform::from([(Platform::Android, vec![Trigger::Pause, Trigger::Timeout, Trigger::Back])]);
    let mut exit = ready(Platform::Android, ExitOfferSettings { triggers: both, ..on() });
    exit.on(second(1), ExitInput::PurchaseStarted);
    exit.on(second(2), ExitInput::Paused);
    assert_eq!(exit.on(second(60), ExitInput::Resumed), []);
    assert_eq!(exit.on(second(61), ExitInput::Tick), []);
    let mut gone = exit.clone();
    assert_eq!(
        gone.on(second(62), ExitInput::Back),
        let_go(Declined::Purchasing),
        "a sheet that never ends holds nobody"
    );
    let mut cancelled = exit.clone();
    cancelled.on(second(62), ExitInput::PurchaseCancelled);
    assert!(offered(&cancelled.on(second(63), ExitInput::Back)));
    exit.on(second(62), ExitInput::PurchaseFinished);
    assert_eq!(exit.on(second(63), paywall()), [], "nothing is loaded");
    assert_eq!(exit.on(second(64), ExitInput::Back), let_go(Declined::Purchased));
    exit.on(second(65), ExitInput::SessionStarted);
    load(&mut exit, second(66), "annual_half");
    assert!(offered(&exit.on(second(67), ExitInput::Back)));
}

#[test]
fn waiting_and_coming_back_set_off_once_each() {
    let triggers = ByPlatform::from([(Platform::Ios, vec![Trigger::Pause, Trigger::Timeout])]);
    let exit = ready(Platform::Ios, ExitOfferSettings { triggers, ..on() });
    let mut waits = exit.clone();
    assert_eq!(waits.on(second(29), ExitInput::Tick), []);
    assert!(offered(&waits.on(second(30), ExitInput::Tick)));
    assert_eq!(waits.on(second(31), ExitInput::Tick), []);

    let mut late = exit.clone();
    late.on(second(1), ExitInput::OfferFailed { revision: 1 });
    assert_eq!(late.on(second(30), ExitInput::Tick), []);
    late.on(second(31), ExitInput::OfferLoaded { revision: 1, offering: Some("annual_half".into()) });
    assert_eq!(late.on(second(32), ExitInput::Tick), [], "its moment has passed");

    let mut away = exit;
    away.on(second(1), ExitInput::Paused);
    assert_eq!(away.on(second(5), ExitInput::Resumed), [], "too short");
    away.on(second(6), ExitInput::Paused);
    assert!(offered(&away.on(second(11), ExitInput::Resumed)));
}

#[test]
fn a_state_that_was_kept_goes_on_where_it_was() {
    let mut exit = ready(Platform::Android, ExitOfferSettings { max_per_day: 1, ..on() });
    assert!(offered(&exit.on(second(1), ExitInput::Back)));
    let mut again: ExitOffer = serde_json::from_str(&serde_json::to_string(&exit).unwrap()).unwrap();
    assert_eq!(again, exit);
    again.on(second(2), ExitInput::SessionStarted);
    load(&mut again, second(3), "other");
    assert_eq!(again.on(second(4), ExitInput::Back), let_go(Declined::DayCap));
    load(&mut again, second(86_401), "other");
    assert!(offered(&again.on(second(86_402), ExitInput::Back)));
}

/// What a random walk does; revisions are counted back from the newest.
#[derive(Clone, Debug)]
enum Step {
    Plain(ExitInput),
    Load { back: u64 },
    Fail { back: u64 },
    Eligibility { back: u64, eligibility: Eligibility },
}

fn step() -> impl Strategy<Value = Step> {
    let eligibility = prop_oneof![
        6 => Just(Eligibility::Eligible),
        1 => Just(Eligibility::Ineligible),
        1 => Just(Eligibility::Unknown),
        1 => Just(Eligibility::NoOffer),
    ];
    let plain = |input| Just(Step::Plain(input));
    prop_oneof![
        8 => plain(paywall()),
        8 => (0..3u64).prop_map(|back| Step::Load { back: back / 2 }),
        1 => (0..2u64).prop_map(|back| Step::Fail { back }),
        8 => (0..3u64, eligibility).prop_map(|(back, eligibility)| Step::Eligibility { back: back / 2, eligibility }),
        6 => plain(ExitInput::Back),
        3 => plain(ExitInput::Swipe),
        3 => plain(ExitInput::Tick),
        2 => plain(ExitInput::Paused),
        2 => plain(ExitInput::Resumed),
        1 => plain(ExitInput::PurchaseStarted),
        1 => plain(ExitInput::PurchaseFinished),
        1 => plain(ExitInput::PurchaseCancelled),
        1 => plain(ExitInput::Dismissed),
        3 => plain(ExitInput::SessionStarted),
    ]
}

fn walk() -> impl Strategy<Value = Vec<(u32, Step)>> {
    let pause = || prop_oneof![29 => 0..40u32, 1 => 0..40_000u32];
    // Chance alone rarely loads all that an offer needs.
    let loaded = vec![
        (0, Step::Plain(paywall())),
        (0, Step::Load { back: 0 }),
        (0, Step::Eligibility { back: 0, eligibility: Eligibility::Eligible }),
    ];
    let steps = prop_oneof![9 => (pause(), step()).prop_map(|step| vec![step]), 1 => Just(loaded)];
    proptest::collection::vec(steps, 1..200).prop_map(|steps| steps.concat())
}

fn settings() -> impl Strategy<Value = ExitOfferSettings> {
    (1..4u32, 1..4u32, any::<bool>()).prop_map(|(max_per_session, max_per_day, offer_when_unknown)| ExitOfferSettings {
        enabled: true,
        triggers: ByPlatform::from([(
            Platform::Android,
            vec![Trigger::Back, Trigger::Swipe, Trigger::Timeout, Trigger::Pause],
        )]),
        max_per_session,
        max_per_day,
        offer_when_unknown,
        ..Default::default()
    })
}

/// Runs a walk and hands every step with its actions to `check`.
fn run(
    settings: &ExitOfferSettings,
    steps: &[(u32, Step)],
    mut check: impl FnMut(&ExitOffer, Timestamp, &ExitInput, &[ExitAction]) -> Result<(), TestCaseError>,
) -> Result<usize, TestCaseError> {
    let mut exit = ExitOffer::new(Platform::Android);
    exit.configure(settings.clone());
    let (mut at, mut offers) = (second(0), 0);
    for (number, (pause, step)) in steps.iter().enumerate() {
        at = at + Duration::from_secs((*pause).into());
        let revision = |back: u64| exit.revision.saturating_sub(back);
        let input = match step {
            Step::Plain(input) => input.clone(),
            // The name says which revision it belongs to, and no two are the same.
            Step::Load { back } => ExitInput::OfferLoaded {
                revision: revision(*back),
                offering: Some(format!("{}/{number}", revision(*back))),
            },
            Step::Fail { back } => ExitInput::OfferFailed { revision: revision(*back) },
            Step::Eligibility { back, eligibility } => {
                ExitInput::EligibilityKnown { revision: revision(*back), eligibility: *eligibility }
            }
        };
        let actions = exit.on(at, input.clone());
        offers += usize::from(offered(&actions));
        check(&exit, at, &input, &actions)?;
    }
    Ok(offers)
}

proptest! {
    #[test]
    fn leaving_always_comes_to_one_answer(settings in settings(), steps in walk()) {
        run(&settings, &steps, |exit, at, input, actions| {
            let answers = actions.iter().filter(|action| {
                matches!(action, ExitAction::ShowOffer { .. } | ExitAction::LetGo { .. })
            });
            let leaves = matches!(input, ExitInput::Back | ExitInput::Swipe);
            prop_assert!(answers.count() == 1 || !leaves, "{input:?} came to {actions:?}");
            // From anywhere at most two steps out lead away.
            let mut exit = exit.clone();
            exit.on(at, ExitInput::Back);
            let last = exit.on(at, ExitInput::Back);
            prop_assert!(matches!(last[..], [ExitAction::LetGo { .. }]), "{last:?}");
            Ok(())
        })?;
    }

    #[test]
    fn nobody_sees_two_offers_without_a_paywall_between_them(settings in settings(), steps in walk()) {
        let mut paywall_since = false;
        run(&settings, &steps, |_, _, input, actions| {
            paywall_since |= matches!(input, ExitInput::PaywallShown { .. });
            if offered(actions) {
                prop_assert!(std::mem::take(&mut paywall_since));
            }
            Ok(())
        })?;
    }

    #[test]
    fn who_bought_sees_no_offer_in_that_session(settings in settings(), steps in walk()) {
        let mut bought = false;
        run(&settings, &steps, |_, _, input, actions| {
            match input {
                ExitInput::PurchaseFinished => bought = true,
                ExitInput::SessionStarted => bought = false,
                _ => (),
            }
            prop_assert!(!bought || !offered(actions));
            Ok(())
        })?;
    }

    #[test]
    fn caps_hold(settings in settings(), steps in walk()) {
        let (mut in_session, mut shown) = (0, Vec::new());
        run(&settings, &steps, |_, at, input, actions| {
            if *input == ExitInput::SessionStarted {
                in_session = 0;
            }
            if offered(actions) {
                in_session += 1;
                shown.push(at);
            }
            let in_a_day = shown.iter().filter(|then| at.since(**then) < DAY).count();
            prop_assert!(in_session <= settings.max_per_session);
            prop_assert!(in_a_day <= settings.max_per_day as usize);
            Ok(())
        })?;
    }

    #[test]
    fn what_was_loaded_for_an_earlier_paywall_is_never_shown(settings in settings(), steps in walk()) {
        run(&settings, &steps, |exit, _, _, actions| {
            if let Some(ExitAction::ShowOffer { offering, .. }) = actions.first() {
                prop_assert!(offering.starts_with(&format!("{}/", exit.revision)), "{offering} at {}", exit.revision);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_process_that_ends_at_any_moment_changes_nothing(settings in settings(), steps in walk()) {
        run(&settings, &steps, |exit, _, _, _| {
            let kept = serde_json::to_string(exit).unwrap();
            prop_assert_eq!(&serde_json::from_str::<ExitOffer>(&kept).unwrap(), exit);
            Ok(())
        })?;
    }
}

#[test]
fn the_walks_do_come_to_offers() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut offers = 0;
    for _ in 0..100 {
        let (settings, steps) = (settings(), walk()).new_tree(&mut runner).unwrap().current();
        offers += run(&settings, &steps, |_, _, _, _| Ok(())).unwrap();
    }
    assert!(offers >= 100, "{offers} offers in 100 walks: the properties are not tested");
}

#[test]
fn a_decision_takes_no_time() {
    let ready = ready(Platform::Android, on());
    let mut slow = 0;
    for _ in 0..10_000 {
        let mut exit = ready.clone();
        let began = std::time::Instant::now();
        assert!(offered(&exit.on(second(1), ExitInput::Back)));
        slow += usize::from(began.elapsed() >= Duration::from_millis(1));
    }
    // It takes under a microsecond: what is slower is the machine doing something else.
    assert!(slow <= 10, "{slow} of 10,000 decisions took a millisecond or longer");
}
