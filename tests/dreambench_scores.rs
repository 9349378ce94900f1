//! The figures of the DreamBench protocol on features made by hand.

use preftune::eval::bootstrap::Bootstrap;
use preftune::eval::dreambench::{
    ClassImages, DualFeatures, Features, Figures, ImageFeatures, Interval, Oracle, oracle, score,
    summarize,
};
use tch::Tensor;

/// Unit vectors of the plane at angles in degrees, `[n, 2]` f32.
fn at(degrees: &[f64]) -> Tensor {
    let values: Vec<f32> = degrees
        .iter()
        .flat_map(|angle| {
            [
                angle.to_radians().cos() as f32,
                angle.to_radians().sin() as f32,
            ]
        })
        .collect();
    Tensor::from_slice(&values).view([-1, 2])
}

fn cos(degrees: f64) -> f64 {
    degrees.to_radians().cos()
}

fn images(references: &[f64], images: &[f64]) -> ImageFeatures {
    ImageFeatures {
        references: at(references),
        images: at(images),
    }
}

fn dual(references: &[f64], shown: &[f64], texts: &[f64]) -> DualFeatures {
    DualFeatures {
        images: images(references, shown),
        texts: at(texts),
    }
}
#[track_caller]
fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-6, "{actual}, not {expected}");
}

fn prompts() -> Vec<String> {
    vec!["a [V] dog".to_owned(), "a green [V] dog".to_owned()]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn scores_are_means_over_pairs_then_prompts() {
    let clip = dual(&[0.0, 20.0], &[10.0, 30.0, 50.0, 90.0], &[40.0, 60.0]);
    let with_token = at(&[45.0, 70.0]);
    let dino = images(&[0.0, 60.0], &[0.0, 10.0, 20.0, 30.0]);
    let reward = dual(&[5.0], &[15.0, 25.0, 35.0, 65.0], &[20.0, 30.0]);
    let features = Features {
        clip: &clip,
        clip_texts_with_token: &with_token,
        dino: Some(&dino),
        reward: &reward,
        class: None,
        untuned: None,
    };
    let scores = score(&prompts(), &features);
    let [one, two] = [scores.prompts[0].figures, scores.prompts[1].figures];

    near(
        one.clip_i,
        mean(&[cos(10.0), cos(10.0), cos(30.0), cos(10.0)]),
    );
    near(
        two.clip_i,
        mean(&[cos(50.0), cos(30.0), cos(90.0), cos(70.0)]),
    );
    near(one.clip_t, mean(&[cos(30.0), cos(10.0)]));
    near(two.clip_t, mean(&[cos(10.0), cos(30.0)]));
    near(one.clip_t_with_token, mean(&[cos(35.0), cos(15.0)]));
    near(two.clip_t_with_token, mean(&[cos(20.0), cos(20.0)]));
    near(
        one.dino.unwrap(),
        mean(&[1.0, cos(60.0), cos(10.0), cos(50.0)]),
    );
    near(
        two.dino.unwrap(),
        mean(&[cos(20.0), cos(40.0), cos(30.0), cos(30.0)]),
    );

    let unit = |degrees: f64| f64::midpoint(cos(degrees), 1.0);
    near(one.image_similarity, mean(&[unit(10.0), unit(20.0)]));
    near(two.image_similarity, mean(&[unit(30.0), unit(60.0)]));
    near(one.text_similarity, mean(&[unit(5.0), unit(5.0)]));
    near(two.text_similarity, mean(&[unit(5.0), unit(35.0)]));
    // The reward is that of an image; the mean comes after.
    let harmonic = |image: f64, text: f64, lambda: f64| {
        1.0 / (lambda / unit(image) + (1.0 - lambda) / unit(text))
    };
    for (lambda, value) in [
        (0.3, two.harmonic_3),
        (0.5, two.harmonic_5),
        (0.7, two.harmonic_7),
    ] {
        near(
            value,
            mean(&[harmonic(30.0, 5.0, lambda), harmonic(60.0, 35.0, lambda)]),
        );
    }

    near(scores.mean.clip_i, mean(&[one.clip_i, two.clip_i]));
    near(
        scores.mean.dino.unwrap(),
        mean(&[one.dino.unwrap(), two.dino.unwrap()]),
    );
    near(
        scores.mean.harmonic_5,
        mean(&[one.harmonic_5, two.harmonic_5]),
    );
    assert_eq!(scores.prompts[1].prompt, "a green [V] dog");
}

#[test]
fn images_of_the_class_word_are_measured_beside_photos_and_the_untuned_model() {
    let clip = dual(&[0.0, 20.0], &[10.0, 30.0, 50.0, 90.0], &[40.0, 60.0]);
    let class = images(&[0.0, 20.0], &[40.0, 60.0, 70.0, 80.0]);
    let untuned = images(&[0.0, 20.0], &[50.0, 70.0, 80.0, 80.0]);
    let dino = images(&[0.0], &[30.0, 30.0, 60.0, 60.0]);
    let mut features = Features {
        clip: &clip,
        clip_texts_with_token: &clip.texts,
        dino: None,
        reward: &clip,
        class: Some(ClassImages {
            clip: &class,
            dino: Some(&dino),
        }),
        untuned: Some(ClassImages {
            clip: &untuned,
            dino: None,
        }),
    };
    let one = score(&prompts(), &features).prompts[0].figures;
    near(one.div.unwrap(), 1.0 - cos(20.0));
    near(one.pres.unwrap(), cos(30.0));
    let now = mean(&[cos(40.0), cos(20.0), cos(60.0), cos(40.0)]);
    let before = mean(&[cos(50.0), cos(30.0), cos(70.0), cos(50.0)]);
    near(one.pres_clip.unwrap(), now);
    let kept = 1.0 - (now - before) / (1.0 - before);
    near(one.class_kept.unwrap(), kept);
    near(one.hypervolume.unwrap(), one.clip_i * one.clip_t * kept);
    // Without the untuned model's there is nothing that the class could be kept of.
    features.untuned = None;
    let figures = score(&prompts(), &features).mean;
    assert!(figures.pres_clip.is_some());
    assert_eq!((figures.class_kept, figures.hypervolume), (None, None));
}

#[test]
fn cosines_are_raw_and_may_be_negative() {
    let clip = dual(&[180.0], &[0.0, 0.0], &[90.0, 180.0]);
    let features = Features {
        clip: &clip,
        clip_texts_with_token: &clip.texts,
        dino: None,
        reward: &clip,
        class: None,
        untuned: None,
    };
    let scores = score(&prompts(), &features);
    near(scores.mean.clip_i, -1.0);
    near(scores.mean.clip_t, -0.5);
    near(scores.mean.image_similarity, 0.0);
    assert!(scores.mean.harmonic_5 >= 0.0 && scores.mean.harmonic_5 < 1e-7);
    assert_eq!(scores.mean.dino, None);
}

#[test]
fn one_image_for_each_prompt_is_enough() {
    let clip = dual(&[0.0, 10.0, 20.0], &[0.0, 10.0], &[0.0, 10.0]);
    let features = Features {
        clip: &clip,
        clip_texts_with_token: &clip.texts,
        dino: None,
        reward: &clip,
        class: None,
        untuned: None,
    };
    let scores = score(&prompts(), &features);
    near(scores.prompts[0].figures.clip_t, 1.0);
    near(scores.prompts[1].figures.clip_t, 1.0);
}

#[test]
#[should_panic(expected = "3 images do not divide among 2 prompts")]
fn images_that_do_not_divide_among_the_prompts_are_refused() {
    let clip = dual(&[0.0], &[0.0, 10.0, 20.0], &[0.0, 10.0]);
    let _ = score(
        &prompts(),
        &Features {
            clip: &clip,
            clip_texts_with_token: &clip.texts,
            dino: None,
            reward: &clip,
            class: None,
            untuned: None,
        },
    );
}

#[test]
fn oracle_leaves_each_photo_itself_out_and_raises_the_alarm_on_copies() {
    let shown = [0.0, 0.0];
    let clip = dual(&[0.0, 30.0, 60.0], &shown, &[0.0, 0.0]);
    let dino = images(&[0.0, 40.0], &shown);
    let features = Features {
        clip: &clip,
        clip_texts_with_token: &clip.texts,
        dino: Some(&dino),
        reward: &clip,
        class: None,
        untuned: None,
    };
    let oracle = oracle(&features);
    near(
        oracle.clip_i.unwrap(),
        mean(&[cos(30.0), cos(30.0), cos(60.0)]),
    );
    near(oracle.dino.unwrap(), cos(40.0));
    near(
        oracle.image_similarity.unwrap(),
        f64::midpoint(oracle.clip_i.unwrap(), 1.0),
    );
    // By DINO the images are the first photo; by CLIP they are as far from the photos as those from each other.
    let figures = score(&prompts(), &features).mean;
    let exceeded = oracle.exceeded_by(&figures);
    assert_eq!(exceeded[0].0, "DINO");
    near(exceeded[0].1, mean(&[1.0, cos(40.0)]));
    near(exceeded[0].2, cos(40.0));
    let lower = Figures {
        dino: Some(0.1),
        clip_i: 0.1,
        ..figures
    };
    assert_eq!(oracle.exceeded_by(&lower), []);
}

#[test]
fn single_photo_has_no_oracle_and_no_alarm() {
    let clip = dual(&[0.0], &[0.0, 0.0], &[0.0, 0.0]);
    let features = Features {
        clip: &clip,
        clip_texts_with_token: &clip.texts,
        dino: None,
        reward: &clip,
        class: None,
        untuned: None,
    };
    let single = oracle(&features);
    assert_eq!(single.clip_i, None);
    assert_eq!(single.exceeded_by(&score(&prompts(), &features).mean), []);
    let other = Oracle {
        clip_i: Some(0.8),
        ..single
    };
    assert_eq!(Oracle::mean(&[single, other]).clip_i, Some(0.8));
    assert_eq!(Oracle::mean(&[single]).clip_i, None);
}

fn figures(value: f64) -> Figures {
    Figures {
        dino: Some(value),
        clip_i: value + 0.1,
        clip_t: value / 2.0,
        clip_t_with_token: value / 3.0,
        image_similarity: 0.9,
        text_similarity: 0.6,
        div: None,
        pres: None,
        pres_clip: None,
        class_kept: None,
        hypervolume: None,
        harmonic_3: 0.7,
        harmonic_5: 0.75,
        harmonic_7: 0.8,
    }
}

#[test]
fn summary_weighs_subjects_and_not_runs() {
    let subjects = [vec![figures(0.2), figures(0.4)], vec![figures(0.7)]];
    let summary = summarize(&subjects, &Bootstrap::default());
    assert_eq!(summary.subjects, 2);
    near(summary.mean.dino.unwrap(), 0.5);
    near(summary.mean.clip_i, 0.6);
    let Interval { low, high } = summary.interval.unwrap();
    near(low.dino.unwrap(), 0.3);
    near(high.dino.unwrap(), 0.7);
    near(low.harmonic_5, 0.75);
    assert_eq!(
        summarize(&subjects[..1], &Bootstrap::default()).interval,
        None
    );
}

#[test]
fn paired_difference_is_surer_than_the_two_means() {
    let tuned: Vec<Figures> = (0..8)
        .map(|subject| figures(0.05 * f64::from(subject) + 0.02))
        .collect();
    let base: Vec<Figures> = (0..8)
        .map(|subject| figures(0.05 * f64::from(subject)))
        .collect();
    let gain = |one: &Figures, two: &Figures| vec![one.minus(two)];
    let gains: Vec<_> = tuned
        .iter()
        .zip(&base)
        .map(|(one, two)| gain(one, two))
        .collect();
    let summary = summarize(&gains, &Bootstrap::default());
    near(summary.mean.dino.unwrap(), 0.02);
    let Interval { low, high } = summary.interval.unwrap();
    near(low.dino.unwrap(), 0.02);
    near(high.dino.unwrap(), 0.02);
}

#[test]
fn missing_dino_is_missing_in_every_summary() {
    let without = Figures {
        dino: None,
        ..figures(0.5)
    };
    let summary = summarize(&[vec![without], vec![figures(0.3)]], &Bootstrap::default());
    assert_eq!(summary.mean.dino, None);
    assert_eq!(without.minus(&figures(0.1)).dino, None);
}
