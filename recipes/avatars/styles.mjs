// The drawing styles: how the shared attributes (attributes.json) are said in each DiceBear style's own options.
//
// A label means the same face in every style, as far as a style has the part: `micah` has eight heads of hair, so several
// of the sixteen share one. viewBox crops each drawing so that heads are about as large and eyes about as high in all.
import { avataaars, micah } from '@dicebear/collection';

const MICAH = {
  top: {
    hat: 'turban', winterHat02: 'turban', turban: 'turban', bob: 'full', bun: 'full', longButNotTooLong: 'full',
    straight01: 'full', curly: 'pixie', fro: 'pixie', dreads01: 'mrT', shortCurly: 'fonze', shortFlat: 'dannyPhantom',
    shortRound: 'dougFunny', sides: 'mrClean', theCaesarAndSidePart: 'dannyPhantom', bald: 'mrClean',
  },
  eyes: {
    closed: 'smiling', default: 'eyes', happy: 'smiling', hearts: 'round', squint: 'eyesShadow', surprised: 'round',
    wink: 'smilingShadow', side: 'eyes',
  },
  eyebrows: {
    default: 'up', angryNatural: 'down', raisedExcited: 'eyelashesUp', sadConcerned: 'eyelashesDown', unibrowNatural: 'down',
  },
  mouth: {
    smile: 'laughing', default: 'smirk', serious: 'pucker', sad: 'sad', screamOpen: 'surprised', tongue: 'smile',
    twinkle: 'smile', grimace: 'nervous',
  },
  accessories: { kurt: 'square', prescription02: 'square', round: 'round', sunglasses: 'square', wayfarers: 'square' },
  facialHair: { beardLight: 'scruff', beardMajestic: 'beard', beardMedium: 'beard', moustacheMagnum: 'scruff' },
  clothing: {
    blazerAndShirt: 'open', collarAndSweater: 'collared', hoodie: 'crew', overall: 'open', shirtCrewNeck: 'crew',
    shirtVNeck: 'open',
  },
};

// The options of an attribute that differ in every style: of those that a style draws alike, the first.
export function distinctOptions(attribute, options) {
  const said = (option) => (share(option) && MICAH[attribute]?.[option]) || option;
  return options.filter((option) => options.find((other) => said(other) === said(option)) === option);
}

const share = (value) => (value === 'none' || value === 'bald' ? 0 : 100);

// Every visible choice is explicit, so DiceBear's own seed decides nothing.
export const STYLES = {
  avataaars: {
    draw: avataaars,
    viewBox: ['0 0 280 280', '35 10 210 210'],
    options: (chosen) => ({
      seed: 'fixed',
      style: ['default'],
      top: [chosen.top === 'bald' ? 'sides' : chosen.top],
      topProbability: share(chosen.top),
      hairColor: [chosen.hairColor],
      facialHairColor: [chosen.hairColor],
      hatColor: [chosen.clothesColor],
      skinColor: [chosen.skinColor],
      eyes: [chosen.eyes],
      eyebrows: [chosen.eyebrows],
      mouth: [chosen.mouth],
      accessories: [chosen.accessories === 'none' ? 'round' : chosen.accessories],
      accessoriesProbability: share(chosen.accessories),
      accessoriesColor: ['262e33'],
      facialHair: [chosen.facialHair === 'none' ? 'beardLight' : chosen.facialHair],
      facialHairProbability: share(chosen.facialHair),
      clothing: [chosen.clothing],
      clothesColor: [chosen.clothesColor],
      backgroundColor: [chosen.backgroundColor],
    }),
  },
  micah: {
    draw: micah,
    viewBox: ['0 0 360 360', '14 6 332 332'],
    options: (chosen) => {
      const hat = MICAH.top[chosen.top] === 'turban';
      return {
        seed: 'fixed',
        base: ['standard'],
        baseColor: [chosen.skinColor],
        hair: [MICAH.top[chosen.top]],
        hairProbability: share(chosen.top),
        hairColor: [hat ? chosen.clothesColor : chosen.hairColor],
        eyes: [MICAH.eyes[chosen.eyes]],
        eyesColor: ['000000'],
        eyeShadowColor: ['d2eff3'],
        eyebrows: [MICAH.eyebrows[chosen.eyebrows]],
        eyebrowsColor: ['000000'],
        mouth: [MICAH.mouth[chosen.mouth]],
        mouthColor: ['000000'],
        nose: ['curve'],
        ears: ['attached'],
        earringsProbability: 0,
        glasses: [MICAH.accessories[chosen.accessories] ?? 'round'],
        glassesProbability: share(chosen.accessories),
        glassesColor: ['262e33'],
        facialHair: [MICAH.facialHair[chosen.facialHair] ?? 'beard'],
        facialHairProbability: share(chosen.facialHair),
        facialHairColor: [chosen.hairColor],
        shirt: [MICAH.clothing[chosen.clothing]],
        shirtColor: [chosen.clothesColor],
        backgroundColor: [chosen.backgroundColor],
      };
    },
  },
};
