//! What a job needs and what a device has.

use serde::{Deserialize, Serialize};

/// An amount of hardware. In a job: what it needs at least; in a heartbeat: what there is, or what is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Logical processor cores.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_cores: u32,
    /// Memory in MiB.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_mb: u32,
    /// Disk space in MiB.
    #[serde(skip_serializing_if = "is_zero")]
    pub storage_mb: u32,
    /// Graphics memory in MiB of the largest GPU; 0 = none.
    #[serde(skip_serializing_if = "is_zero")]
    pub gpu_mb: u32,
}
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Resources {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
    /// The smallest of four ratios (free to total), in basis points; what a device does not have at all does not count.
    pub fn free_bp(free: &Self, total: &Self) -> u32 {
        [
            (free.cpu_cores, total.cpu_cores),
            (free.memory_mb, total.memory_mb),
            (free.storage_mb, total.storage_mb),
            (free.gpu_mb, total.gpu_mb),
        ]
        .into_iter()
        .filter(|(_, total)| *total > 0)
        .map(|(free, total)| u32::try_from(u64::from(free.min(total)) * 10_000 / u64::from(total)).unwrap_or(10_000))
        .min()
        .unwrap_or(0)
    }
}

/// The tier that hardware would earn if it were attested: 0 less than 4 cores or 4 GiB, 1 a common laptop, 2 at least 8 cores
/// and 16 GiB, 3 a GPU of 8 GiB, 4 a GPU of 24 GiB or 32 cores.
pub fn claimed_tier(total: &Resources) -> u8 {
    const GIB: u32 = 1024;
    match total {
        t if t.gpu_mb >= 24 * GIB || t.cpu_cores >= 32 => 4,
        t if t.gpu_mb >= 8 * GIB => 3,
        // Machines sold as 16 GiB report a little less.
        t if t.cpu_cores >= 8 && t.memory_mb >= 15 * GIB => 2,
        t if t.cpu_cores < 4 || t.memory_mb < 4 * GIB - 256 => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_follow_the_hardware() {
        let cases = [
            ((2, 24, 0), 0),
            ((4, 3, 0), 0),
            ((4, 4, 0), 1),
            ((8, 8, 0), 1),
            ((8, 16, 0), 2),
            ((16, 64, 0), 2),
            ((4, 8, 8), 3),
            ((4, 8, 24), 4),
            ((32, 64, 0), 4),
        ];
        for ((cores, memory, gpu), tier) in cases {
            let total = Resources { cpu_cores: cores, memory_mb: memory * 1024, storage_mb: 0, gpu_mb: gpu * 1024 };
            assert_eq!(claimed_tier(&total), tier, "{cores} cores, {memory} GiB, GPU {gpu} GiB");
        }
    }
}
