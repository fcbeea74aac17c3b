//! Deliberate bugs: each leaves out one rule that the proof needs.

macro_rules! bugs {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// One rule that is not kept.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Bug {
            $($(#[$doc])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub(super) const ALL: &[Bug] = &[$(Bug::$name,)+];
        }
    };
}

bugs! {
    /// A deadline runs from when the acknowledgement came.
    DeadlineFromReceipt,
    /// A promise lasts as long as a lease, as if all clocks had one rate.
    PromiseWithoutDrift,
    /// A voter that has just started acknowledges and lapses as if it remembered.
    RestartedVoterAnswers,
    /// A voter that has just started acknowledges at once; it still waits before it lapses.
    RestartedVoterAcknowledges,
    /// A voter that has said that a lease is over acknowledges it once more.
    LapseDoesNotClose,
    /// A gather stays open for as long as it takes.
    GatherWithoutWindow,
    /// A session that no voter has heard of is over as soon as it is open.
    JustOpenedIsOver,
    /// The machine of a leader sleeps, and its clock does not count that.
    WindowWithoutSleep,
    /// A leader asks the voters of now alone.
    OldVotersNotAsked,
    /// A leader that does not know of a change may fence.
    FenceNamesNoConfiguration,
    /// A holder counts by the voters that it knew first.
    NewVotersNotCounted,
    /// While the voters change a holder counts the new ones alone.
    NewVotersCountedAlone,
    /// A holder that has lapsed goes on renewing, and hears the answers.
    LapsedHolderHears,
    /// A new agent does not look at the page.
    PageForgotten,
    /// A holder waits for its first deadline for as long as it takes.
    OpeningWithoutEnd,
    /// A holder's time for its first deadline begins when it hears that its session is open.
    OpeningFromTheAnswer,
    /// A node takes up a session although it has proposed to open the one after it.
    GivenUpIsTakenUp,
    /// Init begins to freeze at the deadline.
    LeashWithoutMargin,
    /// Init lets its workload run in whatever session the page is.
    LeashIgnoresSession,
    /// A voter with other terms is heard.
    StrangersTermsHeard,
    /// A voter that has become the only one does not wait when it starts anew.
    AloneTooSoon,
}
