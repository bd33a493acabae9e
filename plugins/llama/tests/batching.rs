//! Many answers in one loop.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use selvedge_core::{
    Context, Inference,
    inference::{Generate, Generated, Sampling},
};
use selvedge_llama::Llama;

fn prompt(n: usize) -> String {
    let things = ["tea", "a sea captain", "the moon", "bread", "a violin", "snow", "a market", "the number seven"];
    format!("Once upon a time there were {} and {}, and", things[n % 8], things[(n / 8 + n + 3) % 8])
}

async fn run(llama: &Llama, requests: Vec<Generate>) -> Vec<Generated> {
    let running = requests.into_iter().map(|request| {
        let llama = llama.clone();
        tokio::spawn(async move { llama.generate(&Context::new(), request).await.unwrap().collect().await.unwrap() })
    });
    let mut answers = Vec::new();
    for running in running.collect::<Vec<_>>() {
        answers.push(running.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn measure_invariance() {
    let path = std::env::temp_dir().join("q40.gguf");
    println!(
        "{:?}",
        selvedge_llama::prepare(
            support::model(),
            &path,
            if std::env::var("Q8").is_ok() { selvedge_llama::Format::Q8_0 } else { selvedge_llama::Format::Q4_0 }
        )
        .unwrap()
    );
    for threads in [1] {
        let open =
            |sequences| Llama::builder(&path).threads(threads).sequences(sequences).context_length(512).open().unwrap();
        let alone = open(1);
        let eight = open(8);
        for sampling in [Sampling::GREEDY, Sampling { temperature: 0.8, seed: 3, ..Sampling::GREEDY }] {
            let request = |n| Generate::text(prompt(n)).max_tokens(40).sampling(sampling);
            let mut single = Vec::new();
            for n in 0..8 {
                single.extend(run(&alone, vec![request(n)]).await);
            }
            let mut batched = Vec::new();
            for n in 0..1 {
                batched.extend(run(&eight, (n * 8..n * 8 + 8).map(request).collect()).await);
            }
            let same = single.iter().zip(&batched).filter(|(a, b)| a.symbols == b.symbols).count();
            let mut resumed = 0;
            for n in 0..8 {
                let begun = single[n].symbols[..single[n].symbols.len() / 2].to_vec();
                let half = begun.len();
                let rest = run(&open(1), vec![request(n).begun(begun)]).await;
                resumed += usize::from(rest[0].symbols == single[n].symbols[half..]);
            }
            println!("threads {threads} {sampling:?}: batched same {same}/8, resumed same {resumed}/8");
        }
        let started = std::time::Instant::now();
        let mut tokens = 0;
        for n in 0..8 {
            tokens += run(&alone, vec![Generate::text(prompt(n + 20)).max_tokens(40)]).await[0].symbols.len();
        }
        let one = tokens as f64 / started.elapsed().as_secs_f64();
        let started = std::time::Instant::now();
        let all = run(&eight, (20..28).map(|n| Generate::text(prompt(n)).max_tokens(40)).collect()).await;
        let together = all.iter().map(|a| a.symbols.len()).sum::<usize>() as f64 / started.elapsed().as_secs_f64();
        println!("threads {threads}: alone {one:.1} t/s, together {together:.1} t/s, {:.2}x", together / one);
    }
}
