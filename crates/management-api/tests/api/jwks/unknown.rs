//! Tokens that name a key which is not known: who waits for the provider, who is told at once, and how often it is asked.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use testkit::receiver::Gate;
use testkit::{DEADLINE, Receiver, eventually, eventually_ok};

use super::{Api, NEVER, Signer, set, unavailable};
use crate::problem;

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_made_up_keys_cause_one_fetch() {
    let (provider, signer, forger) = (Receiver::start().await, Signer::new("a"), Signer::new("b"));
    provider.answer(set(&[&signer]));
    let settings = [("JWKS_MIN_INTERVAL", NEVER), ("JWKS_MAX_AGE", NEVER)];
    let api = Api::ready(&provider.url("/jwks"), &settings).await;
    // The one at the start counts too: nothing more is due for an hour, and nobody is made to wait for that.
    for _ in 0..4 {
        let asked = (0..50).map(|index| {
            let token = forger.token_named(&format!("made-up-{index}"));
            let client = api.client.clone().bearer(&token);
            async move { client.get("/api/event-types").await }
        });
        for answer in join_all(asked).await {
            unavailable(answer);
        }
    }
    api.ask(&signer.token()).await.expect(200);
    assert_eq!(provider.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_new_key_are_never_refused_though_made_up_keys_keep_the_provider_asked() {
    let (provider, forger) = (Receiver::start().await, Signer::new("forger"));
    let signers = ["1", "2", "3", "4", "5"].map(Signer::new);
    provider.answer(set(&[&signers[0]]));
    let settings = [("JWKS_MIN_INTERVAL", "700ms"), ("JWKS_MAX_AGE", NEVER)];
    let api = Arc::new(Api::ready(&provider.url("/jwks"), &settings).await);
    let junk: Vec<_> = (0..10)
        .map(|sender| {
            let (api, forger) = (api.clone(), forger.token_named(&format!("made-up-{sender}")));
            tokio::spawn(async move {
                loop {
                    assert_eq!(problem(api.ask(&forger).await, 401), "token_signature_invalid");
                }
            })
        })
        .collect();
    for signer in &signers[1..] {
        // Just after the provider was asked, it has a new key and signs with it.
        provider.until(provider.requests().len() + 1).await;
        provider.answer(set(&[signer]));
        let token = signer.token();
        for answer in join_all((0..20).map(|_| api.ask(&token))).await {
            answer.expect(200);
        }
    }
    assert!(junk.iter().all(|sender| !sender.is_finished()));
    junk.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_for_a_fetch_share_it_and_hold_nobody_up() {
    let (provider, old, new) = (Receiver::start().await, Signer::new("old"), Signer::new("new"));
    provider.answer(set(&[&old]));
    let settings = [("JWKS_MIN_INTERVAL", "10ms"), ("JWKS_MAX_AGE", NEVER), ("JWKS_TIMEOUT", "20s")];
    let api = Arc::new(Api::ready(&provider.url("/jwks"), &settings).await);
    api.ask(&old.token()).await.expect(200);
    let fetched = provider.requests().pop().expect("a request").arrived;
    let moment = Duration::from_millis(500);
    eventually("the provider may be asked again", DEADLINE, async || {
        (fetched.elapsed() > moment).then_some(())
    })
    .await;

    let gate = Gate::default();
    provider.answer(set(&[&old, &new]).when_open(&gate));
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (api, token) = (api.clone(), new.token());
            tokio::spawn(async move { api.ask(&token).await })
        })
        .collect();
    provider.until(2).await;
    for _ in 0..20 {
        api.ask(&old.token()).await.expect(200);
    }
    assert!(waiting.iter().all(|request| !request.is_finished()), "they wait");
    gate.open();
    for request in waiting {
        request.await.expect("no panic").expect(200);
    }
    // One more may have been asked for while the first was under way.
    assert!(provider.requests().len() <= 3, "{}", provider.requests().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_makes_up_keys_does_not_keep_others_from_waiting() {
    let (provider, old, new) = (Receiver::start().await, Signer::new("old"), Signer::new("new"));
    provider.answer(set(&[&old]));
    let settings = [("JWKS_MIN_INTERVAL", "10ms"), ("JWKS_MAX_AGE", NEVER), ("JWKS_TIMEOUT", "20s")];
    let api = Arc::new(Api::ready(&provider.url("/jwks"), &settings).await);
    let gate = Gate::default();
    provider.answer(set(&[&old, &new]).when_open(&gate));
    let ask = |address: &'static str, token: String| {
        let api = api.clone();
        tokio::spawn(async move { api.ask_from(address, &token).await })
    };
    // More than may wait of all addresses together.
    let made_up: Vec<_> = (0..300).map(|_| ask("2001:db8::1", old.token_named("made up"))).collect();
    eventually_ok("all but those of one address are told at once", DEADLINE, async || {
        let told = made_up.iter().filter(|request| request.is_finished()).count();
        if told == 300 - 32 { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    unavailable(api.ask_from("2001:db8::2", &new.token()).await);
    let good = ask("192.0.2.1", new.token());
    gate.open();
    good.await.expect("no panic").expect(200);
    for request in made_up {
        let answer = request.await.expect("no panic");
        assert!(matches!(answer.status.as_u16(), 401 | 503), "{}", answer.text());
    }
}
