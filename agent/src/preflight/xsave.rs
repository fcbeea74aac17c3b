//! How this CPU lays out the extended state of a thread. A restored thread's registers are put back byte by byte, in the
//! source's layout: where the target's differs they would come back wrong, though every instruction set is there.

use migrate_proto::message::Xsave;

/// The layout; `None` where there is none to be compared.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn layout() -> Option<Xsave> {
    None
}

/// The layout; `None` where the CPU or the system has no such thing.
#[cfg(target_arch = "x86_64")]
pub(super) fn layout() -> Option<Xsave> {
    use std::arch::x86_64::__cpuid_count;
    const LEAF: u32 = 0xd;
    const OSXSAVE: u32 = 1 << 27;
    let general = __cpuid_count(0, 0);
    if general.eax < LEAF || __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
        return None;
    }
    let enabled = enabled_components();
    let bytes = __cpuid_count(LEAF, 0).ebx;
    // The first two lie where they always did.
    let components = (2..63).filter(|number| enabled >> number & 1 == 1).map(|number| {
        let found = __cpuid_count(LEAF, number);
        (number, found.ebx, found.eax)
    });
    Some(Xsave { enabled, bytes, components: components.collect() })
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn enabled_components() -> u64 {
    #[target_feature(enable = "xsave")]
    fn read() -> u64 {
        // SAFETY: reads a register and touches no memory; the caller has seen OSXSAVE.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }
    // SAFETY: only called where OSXSAVE says that the CPU has XSAVE and the system has switched it on.
    unsafe { read() }
}

/// In what `ours` cannot hold what `theirs` has saved.
pub(super) fn difference(theirs: &Xsave, ours: Option<&Xsave>) -> Option<String> {
    let Some(ours) = ours else { return Some("it has no extended state at all".to_owned()) };
    let missing = theirs.enabled & !ours.enabled;
    if missing != 0 {
        return Some(format!("components {missing:#x} are missing"));
    }
    let moved = theirs.components.iter().find(|component| !ours.components.contains(component));
    moved.map(|(number, offset, _)| format!("component {number} does not lie at {offset}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Xsave {
        Xsave { enabled: 0b1_0000_0111, bytes: 840, components: vec![(2, 576, 256), (8, 832, 8)] }
    }

    #[test]
    fn this_cpu_is_equal_to_itself() {
        let own = layout();
        if cfg!(target_arch = "x86_64") {
            let own = own.as_ref().unwrap();
            // x87 and SSE are always on, and everything lies within the whole.
            assert_eq!(own.enabled & 3, 3, "{own:?}");
            assert!(own.components.iter().all(|(_, offset, length)| offset + length <= own.bytes), "{own:?}");
        }
        assert_eq!(own.as_ref().and_then(|theirs| difference(theirs, own.as_ref())), None);
    }

    #[test]
    fn more_is_no_harm_and_elsewhere_is() {
        let mut more = sample();
        more.enabled |= 1 << 9;
        more.components.push((9, 2688, 8));
        assert_eq!(difference(&sample(), Some(&more)), None);
        assert_eq!(difference(&more, Some(&sample())).unwrap(), "components 0x200 are missing");
        let mut elsewhere = sample();
        elsewhere.components[1] = (8, 2688, 8);
        assert_eq!(difference(&sample(), Some(&elsewhere)).unwrap(), "component 8 does not lie at 832");
        assert!(difference(&sample(), None).is_some());
    }
}
