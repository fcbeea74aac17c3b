//! The machine's architecture and the CPU's features, as far as programs can depend on them.
//!
//! `/proc/cpuinfo` mixes instruction sets with what only the kernel uses: power saving, virtualisation, mitigations. The
//! latter differ between kernels on the very same CPU, so they must not forbid a move. The list below names those; a name
//! that it does not know is taken for an instruction set, since a move refused costs less than an illegal instruction.

use std::fs;

use migrate_proto::error::{Code, Problem};

/// Features of x86 that no program can use or notice.
const KERNEL_ONLY: &[&str] = &[
    // How the machine is built and managed.
    "acpi",
    "aperfmperf",
    "apic",
    "arat",
    "art",
    "bus_lock_detect",
    "cmp_legacy",
    "constant_tsc",
    "cpb",
    "cpuid",
    "cpuid_fault",
    "cr8_legacy",
    "de",
    "dtherm",
    "dts",
    "epb",
    "est",
    "extapic",
    "extd_apicid",
    "amd_dcm",
    "acc_power",
    "ht",
    "hw_pstate",
    "hwp",
    "hwp_act_window",
    "hwp_epp",
    "hwp_notify",
    "hwp_pkg_req",
    "hfi",
    "hybrid_cpu",
    "hypervisor",
    "ida",
    "irperf",
    "mca",
    "mce",
    "msr",
    "mtrr",
    "nodeid_msr",
    "nonstop_tsc",
    "nonstop_tsc_s3",
    "nopl",
    "nx",
    "osvw",
    "pae",
    "page1gb",
    "pat",
    "pbe",
    "pcid",
    "pdpe1gb",
    "pge",
    "pln",
    "pn",
    "proc_feedback",
    "pse",
    "pse36",
    "pts",
    "rapl",
    "rep_good",
    "skinit",
    "smap",
    "smca",
    "smep",
    "smx",
    "ss",
    "succor",
    "tm",
    "tm2",
    "topoext",
    "tsc_adjust",
    "tsc_deadline_timer",
    "tsc_known_freq",
    "tsc_reliable",
    "umip",
    "up",
    "vme",
    "wbnoinvd",
    "wdt",
    "x2apic",
    "xtopology",
    "xtpr",
    "always",
    "cppc",
    "dca",
    "invpcid",
    "invpcid_single",
    "overflow_recov",
    "pconfig",
    "sdbg",
    "tme",
    "fast_cppc",
    "amd_htr_cores",
    "amd_heterogeneous_cores",
    "invlpgb",
    "lam_supported",
    "ring3mwait",
    "xsaves",
    "xcompacted",
    "core_capabilities",
    "split_lock_detect",
    "zen",
    "k8",
    "fsrs_kernel",
    "lkgs",
    "fred",
    "wrmsrns",
    "msr_imm",
    // Counting and tracing.
    "amd_lbr_pmc_freeze",
    "amd_lbr_v2",
    "arch_lbr",
    "arch_perfmon",
    "bpext",
    "brs",
    "bts",
    "ds_cpl",
    "dtes64",
    "ibs",
    "intel_pt",
    "pdcm",
    "pebs",
    "perfctr_core",
    "perfctr_llc",
    "perfctr_nb",
    "perfmon_v2",
    "ptsc",
    // Sharing of caches and bandwidth.
    "bmec",
    "abmc",
    "cat_l2",
    "cat_l3",
    "cdp_l2",
    "cdp_l3",
    "cqm",
    "cqm_llc",
    "cqm_mbm_local",
    "cqm_mbm_total",
    "cqm_occup_llc",
    "mba",
    "per_thread_mba",
    "rdt_a",
    "smba",
    // Virtualisation and protected guests.
    "avic",
    "v_vmsave_vmload",
    "debug_swap",
    "decodeassists",
    "ept",
    "ept_ad",
    "flexpriority",
    "flushbyasid",
    "ibrs_virt",
    "lbrv",
    "npt",
    "nrip_save",
    "pausefilter",
    "pfthreshold",
    "sev",
    "sev_es",
    "sev_snp",
    "sme",
    "svm",
    "svm_lock",
    "tdx_guest",
    "tdx_host_platform",
    "tpr_shadow",
    "tsc_scale",
    "v_spec_ctrl",
    "v_tsc_aux",
    "vgif",
    "vmcb_clean",
    "vmmcall",
    "vmx",
    "vnmi",
    "vpid",
    "x2avic",
    "xenpv",
    "xsaveerptr",
    "sgx",
    "sgx1",
    "sgx2",
    "sgx_lc",
    "sgx_edeccssa",
    // Mitigations.
    "amd_ibpb",
    "amd_ibrs",
    "amd_psfd",
    "amd_ssb_no",
    "amd_ssbd",
    "amd_stibp",
    "arch_capabilities",
    "autoibrs",
    "bhi_ctrl",
    "btc_no",
    "flush_l1d",
    "gds_ctrl",
    "ibpb",
    "ibpb_brtype",
    "ibpb_exit_to_user",
    "ibpb_ret",
    "ibrs",
    "ibrs_enhanced",
    "ibs_op_zen5",
    "intel_ppin",
    "intel_stibp",
    "its_no",
    "kaiser",
    "lfence_rdtsc",
    "md_clear",
    "null_sel_clr_base",
    "pti",
    "retpoline",
    "rfds_clear",
    "rrsba_ctrl",
    "rsb_ctxsw",
    "rtm_always_abort",
    "sbpb",
    "spec_ctrl",
    "spec_ctrl_ssbd",
    "srbds_ctrl",
    "srso_no",
    "srso_user_kernel_no",
    "ssbd",
    "stibp",
    "tsa_l1_no",
    "tsa_sq_no",
    "tsx_force_abort",
    "verw_clear",
    "virt_ssbd",
];

/// The machine, as `uname -m` says.
pub(super) fn arch() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// All features of the first CPU, by the kernel's names.
pub(super) fn flags() -> Result<Vec<String>, Problem> {
    let text = fs::read_to_string("/proc/cpuinfo")
        .map_err(|error| Problem::new(Code::Internal, format!("cannot read /proc/cpuinfo: {error}")))?;
    Ok(parse(&text))
}

/// Features of `theirs` that a program may use and that `ours` lacks.
pub(super) fn missing<'a>(theirs: &'a [String], ours: &[String]) -> Vec<&'a str> {
    let counts = |flag: &&String| !KERNEL_ONLY.contains(&flag.as_str()) && !ours.contains(flag);
    theirs.iter().filter(counts).map(String::as_str).collect()
}

/// x86 calls the line `flags`, ARM and RISC-V `Features` and `isa`.
fn parse(cpuinfo: &str) -> Vec<String> {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let line = first.lines().filter_map(|line| line.split_once(':'));
    let mut named = line.filter(|(name, _)| ["flags", "Features", "isa"].contains(&name.trim()));
    let list = named.next().map(|(_, list)| list).unwrap_or_default();
    list.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_first_cpu_speaks_for_all() {
        let x86 = "processor\t: 0\nvmx flags\t: ept\nflags\t\t: fpu sse2 avx\n\nprocessor\t: 1\nflags\t\t: fpu\n\n";
        assert_eq!(parse(x86), list("fpu sse2 avx"));
        assert_eq!(parse("processor\t: 0\nFeatures\t: fp asimd\n"), list("fp asimd"));
        assert_eq!(parse(""), Vec::<String>::new());
    }

    #[test]
    fn only_what_programs_use_is_missed() {
        let missed = list("sse2 avx2 vmx ibrs never_heard_of");
        assert_eq!(missing(&missed, &list("sse2")), ["avx2", "never_heard_of"]);
        assert!(missing(&missed, &missed).is_empty());
    }

    #[test]
    fn this_machine_has_features() {
        let own = flags().unwrap();
        assert!(!own.is_empty());
        assert!(missing(&own, &own).is_empty());
    }
}
