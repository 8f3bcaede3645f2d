//! Schedules of the learning rate: a factor by step.

use crate::recipe::ScheduleChoice;

/// The factor on the learning rate at `step` of `steps`, both counted from 0.
pub fn factor(choice: &ScheduleChoice, step: usize, steps: usize) -> f64 {
    let done = step as f64 / steps.max(1) as f64;
    match choice {
        ScheduleChoice::Constant => 1.0,
        ScheduleChoice::Step { at, factor } => {
            // A milestone at 0.7 of 10 steps acts from step 7 on, however 0.7 is rounded.
            let passed = at.iter().filter(|a| done + 1e-12 >= **a).count();
            factor.powi(passed as i32)
        }
        ScheduleChoice::Cosine { warmup, floor } => {
            let warm = (warmup * steps as f64).round();
            if (step as f64) < warm {
                return (step + 1) as f64 / warm;
            }
            let rest = (steps as f64 - warm).max(1.0);
            let turn = ((step as f64 - warm) / rest).min(1.0) * std::f64::consts::PI;
            floor + (1.0 - floor) * 0.5 * (1.0 + turn.cos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_schedule_falls_at_its_fractions() {
        let choice = ScheduleChoice::Step {
            at: vec![0.5, 0.7],
            factor: 0.1,
        };
        let at = |step| factor(&choice, step, 10);
        assert_eq!((at(0), at(4)), (1.0, 1.0));
        assert!((at(5) - 0.1).abs() < 1e-15 && (at(6) - 0.1).abs() < 1e-15);
        assert!((at(7) - 0.01).abs() < 1e-15 && (at(9) - 0.01).abs() < 1e-15);
    }

    #[test]
    fn a_cosine_warms_up_and_ends_near_its_floor() {
        let choice = ScheduleChoice::Cosine {
            warmup: 0.1,
            floor: 0.01,
        };
        let at = |step| factor(&choice, step, 1000);
        assert!((at(0) - 0.01).abs() < 1e-12);
        assert!((at(99) - 1.0).abs() < 1e-12 && (at(100) - 1.0).abs() < 1e-12);
        assert!((at(550) - 0.505).abs() < 1e-9);
        assert!(at(999) > 0.01 && at(999) < 0.0101);
        assert!((100..999).all(|s| at(s) > at(s + 1)));
    }
}
