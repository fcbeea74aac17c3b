//! Whatever a link does, every parcel arrives once and in order.

use super::*;

#[tokio::test]
async fn a_link_that_is_cut_anywhere_is_resumed() {
    // Every message from the greeting on, sent or received, is once the one with which the link goes; several links in a row.
    for at in 0..12 {
        let (_network, a, b) = nodes();
        let links = [sending(cut_after(at)), receiving(cut_after(at)), sending(cut_after(at + 3))];
        exchange(Faulty::new(a, plan(links)), b, 40).await;
    }
}

#[tokio::test]
async fn a_link_that_the_acceptor_loses_is_resumed() {
    for at in 0..12 {
        let (_network, a, b) = nodes();
        let links = [receiving(cut_after(at)), sending(cut_after(at))];
        exchange(a, Faulty::new(b, plan(links)), 40).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lost_messages_come_again() {
    for lost in 0..10 {
        let (_network, a, b) = nodes();
        let faults = LinkFaults {
            sending: Faults { lose: vec![lost, lost + 3], ..Faults::default() },
            receiving: Faults { lose: vec![lost + 1], ..Faults::default() },
            made_twice: false,
        };
        exchange(Faulty::new(a, plan([faults])), b, 30).await;
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_messages_come_again() {
    for message in 0..8 {
        for frame in 0..3 {
            let (_network, a, b) = nodes();
            let corrupt = Faults { corrupt: Some((message, frame)), ..Faults::default() };
            exchange(Faulty::new(a, plan([sending(corrupt)])), b, 20).await;
        }
    }
}

#[tokio::test]
async fn a_link_that_was_made_twice_does_no_harm() {
    let (_network, a, b) = nodes();
    let twice = || LinkFaults { made_twice: true, sending: cut_after(9), ..LinkFaults::default() };
    exchange(Faulty::new(a, plan([twice(), twice()])), b, 40).await;
}

#[tokio::test]
async fn a_peer_that_is_not_there_yet_is_waited_for() {
    let (_network, a, b) = nodes();
    let refusing = Faulty::new(a, Plan { refused_connects: 3, ..Plan::default() });
    exchange(refusing, b, 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_counts_as_a_cut_link() {
    let (_network, a, b) = nodes();
    // From the second message on nothing gets through, and nothing is said either.
    let stuck = receiving(Faults { hold: Some((1, Arc::new(Semaphore::new(0)))), ..Faults::default() });
    exchange(Faulty::new(a, plan([stuck])), b, 20).await;
}
