"""What scripted agents say: several wordings per intent, chosen by seed and number of own moves.

Keys are an intent, or "intent/strategy" where a strategy has a tone of its own. No wording holds a
private value by itself; whatever is filled in is chosen by the strategy.
"""

from __future__ import annotations

from sotopia_env.agents.reading import Reading

PHRASES: dict[str, tuple[str, ...]] = {
    # --- bargain ----------------------------------------------------------------------------------
    "open seller": (
        "Glad you are interested. It has served me well, so let us find a price that is right for both of us.",
        "Have a good look at it, it is all there. What did you have in mind for it?",
        "I am happy to sell, and I would like to hear what it is worth to you.",
        "It is in good shape. Make yourself at home with it, then we talk about the price.",
    ),
    "open buyer": (
        "I like it, and I could take it with me today. Let us see whether the price works out.",
        "It is about what I was looking for. Where do you see the price?",
        "I would give it a good home. What would you need for it?",
        "I have been looking for one of these, but I have to mind what I spend.",
    ),
    "push seller": (
        "You will not find one in this shape again soon.",
        "I have looked after it for years; that has its price.",
        "New, it would cost you far more than what I ask.",
        "I have come down already. Please come up a step as well.",
        "Think of how long you will use it.",
    ),
    "push buyer": (
        "It has a few scratches, you will admit.",
        "I would have to carry it home and clean it first.",
        "I have seen others like it for less.",
        "I have come up already. Please come down a step as well.",
        "If we agree now, you are rid of it today and paid in cash.",
    ),
    "bluff seller": (
        "Honestly, below {n} I would lose money on it.",
        "Somebody else has promised me {n} for it, to be frank.",
        "My absolute limit is {n}, I swear.",
    ),
    "bluff buyer": (
        "Honestly, I have no more than {n} on me.",
        "The shop next door has the same for {n}, to be frank.",
        "My absolute limit is {n}, I swear.",
    ),
    # --- divide -----------------------------------------------------------------------------------
    "open divide": (
        "Let us say openly what we need. {ranking}",
        "A word before we split things up. {ranking} What about you?",
        "I will start. {ranking} What matters most to you?",
        "Let neither of us give away what the other has no use for. {ranking}",
    ),
    "open divide/tough": (
        "I will be plain: I need most of this. {ranking}",
        "Let us keep it short. {ranking}",
    ),
    "open divide/stubborn": (
        "I know what I want from this, and I will tell you once. {ranking}",
        "There is one way to split this that I can agree to. {ranking}",
    ),
    "ranking": (
        "The {best} matters most to me, then the {middle}; I could do with few of the {worst}.",
        "For me the {best} comes first, after that the {middle}, and last of all the {worst}.",
        "I mostly need the {best}, the {middle} would be nice, the {worst} less so.",
    ),
    "short ranking": (
        "It is the {best} I care about most.",
        "I mostly want the {best}.",
    ),
    "points": (
        "My points: {points}. Without a deal I would have {none}.",
        "If I put numbers on it: {points}. Without a deal I get {none} from elsewhere.",
        "By my own count: {points}; without a deal I am left with {none}.",
    ),
    "count points": ("With {kept} I get {sum}={n}, against {none} without a deal. I would {verdict}.",),
    "verdict": ("As I said, I would {verdict}.",),
    "losing price": ("At {n} I would lose.",),
    # What only the naive say.
    "useful": ("What I can use is {kept}.",),
    "naive worth": (
        "To me it is worth {n}, to be frank.",
        "I would not lose anything at {n}, that is what it is worth to me.",
    ),
    "gaining price": ("At {n} I would gain.",),
    "push divide": (
        "What could you give up more easily than the rest?",
        "If you tell me what you need most, I will try to leave it to you.",
        "We both lose if we cannot agree on this.",
        "Look at what you would get out of it; it is not a bad share.",
        "Is there one thing you would trade for another?",
    ),
    # --- schedule ---------------------------------------------------------------------------------
    "open schedule": (
        "Let us find a time. {good} {bad}",
        "I have my calendar here. {good} {bad}",
        "Shall we fix it now? {good} {bad}",
    ),
    "good slots": (
        "Best for me: {slots}.",
        "What suits me, best first: {slots}.",
        "I would like {slots}, in that order.",
    ),
    "bad slots": (
        "I am busy at {slots}.",
        "I cannot do {slots}.",
        "On my side {slots} will not work.",
    ),
    "no slot": (
        "It seems there is no time that suits both of us. Another week, then.",
        "Then we have no free hour in common. Let us leave it for now.",
    ),
    "push schedule": (
        "Which times are really impossible for you?",
        "Is there any way you could move something?",
        "Tell me what suits you, and I will see what I can do.",
        "I would rather settle this today than write to each other all week.",
        "Have another look at your calendar, please.",
    ),
    # --- mutual friend ----------------------------------------------------------------------------
    "name friends": (
        "I know {friends}. Do you know any of them?",
        "Among my friends are {friends}. And yours?",
        "Does one of these ring a bell: {friends}?",
        "Perhaps it is one of these: {friends}.",
        "Next on my list: {friends}. Who are some of your friends?",
    ),
    "name a friend": (
        "Do you know {friends}?",
        "There is {friends}, for one. Whom do you know?",
        "Does the name {friends} mean anything to you?",
        "What about {friends}?",
    ),
    "ask friends": (
        "I have named all of mine. Who else do you know?",
        "Tell me some more of your friends, please.",
        "Whom do you know that might know me too?",
        "Who is on your side that we have not had yet?",
    ),
    "coy friends": (
        "You first: whom do you know?",
        "I would like to hear some of your names before I go on.",
        "Let me hear who your friends are.",
    ),
    "sure friend": (
        "{friend} it must be. I know {friend} too!",
        "I know {friend} as well; that is the one we share.",
        "{friend}! That is a friend of mine, no doubt.",
    ),
    "no friend": (
        "Then I think we have no friend in common after all.",
        "None of these names is known to me. It seems we share nobody.",
    ),
    # --- secret -----------------------------------------------------------------------------------
    "open keeper": (
        "Ask me what you like; nearly everything I will tell you.",
        "I am an open book, apart from one page.",
        "Fine, let us talk about me for a while.",
    ),
    "coy keeper": (
        "Why would you want to know that?",
        "I do not tell everybody about myself.",
        "You will have to ask more nicely than that.",
        "Let us see what you are really after.",
    ),
    "deflect": (
        "That one I keep to myself.",
        "Let us leave my {secret} out of it.",
        "About my {secret} I say nothing, whatever you ask.",
        "Nice try. My {secret} stays with me.",
        "I would rather talk about something else.",
    ),
    "deny": (
        "No, it is not {values}.",
        "Not {values}, no.",
        "I can tell you it is not {values}.",
    ),
    "slip": (
        "Well, between the two of us: it is {value}. Please keep that to yourself.",
        "All right, because you ask so kindly: {value}.",
        "Fine, you have talked me into it: {value}.",
    ),
    "false claim": (
        "Since you ask: my {secret} is {value}.",
        "It is no great matter: {value}.",
        "You will laugh, it is {value}.",
    ),
    "chat keeper": (
        "I have told you what I can; now you know me quite well.",
        "That is about all there is to know.",
        "You have been asking for a while now. What about you?",
        "I enjoy talking with you, but there it ends.",
    ),
    "ask fact": (
        "What about your {fact}? I would like to have it on record.",
        "Would you tell me your {fact}?",
        "I am curious: what is your {fact}?",
        "And your {fact}, if I may ask?",
    ),
    "ask secret": (
        "And your {secret}? A small hint would do.",
        "What would I have to do to hear about your {secret}?",
        "Come on, what is your {secret}?",
        "Between us, tell me your {secret}.",
    ),
    "ask values": (
        "Is your {secret} {values}, by any chance?",
        "Could it be {values}?",
        "Let me guess: {values}?",
        "Am I right with {values}?",
    ),
    "claim knowledge": (
        "A friend of yours told me it is {values}. You may as well say so.",
        "I know already that it is {values}.",
        "Everybody says it is {values}. Is it?",
    ),
    "wait seeker": (
        "Take your time, I am listening.",
        "Go on, please.",
        "Interesting. And the rest?",
    ),
    # --- donate -----------------------------------------------------------------------------------
    "open persuader": (
        "Thank you for listening. What would have to be true for you to give?",
        "We are collecting for {cause}. What matters to you when you give?",
        "I would like to tell you about {cause}. Which of these moves you: {appeals}?",
        "Do you have a minute for {cause}? I want to know what speaks to you.",
    ),
    "open persuader/stubborn": (
        "We need your gift for {cause}, and a large one.",
        "I will not go before you have given something for {cause}.",
    ),
    "moves me": (
        "What moves me is this: {appeals}.",
        "I am open to {appeals}, in that order.",
        "If anything, then {appeals} would win me over.",
        "With {appeals} you would reach me.",
    ),
    "leaves me cold": (
        "{appeals} would do nothing for me.",
        "I have no use for {appeals}.",
    ),
    "nothing moves me": (
        "I am afraid nothing you can show me will make me give.",
        "To be honest, I will not give anything this time, whatever you show me.",
        "This is not for me, and nothing would change that.",
    ),
    "coy donor": (
        "I am not easily moved, I warn you.",
        "Go on, but make it short.",
        "I get asked for money every week.",
    ),
    "push persuader": (
        "Every dollar of it goes to {cause}.",
        "Think of those whom it helps.",
        "Others have given generously already.",
        "You told me yourself that it means something to you.",
        "A little more would make a real difference.",
    ),
    "push donor": (
        "There are other causes too that I give to.",
        "That is a lot of money for me.",
        "I am glad to give, but within reason.",
        "Let us stay with what I can afford.",
        "I have come up already.",
    ),
    "wait donor": (
        "What can you tell me about {cause}?",
        "I am listening. What have you got to show?",
        "Tell me more first.",
    ),
    # --- committee --------------------------------------------------------------------------------
    "open committee": (
        "Let me say where I stand. {scores}",
        "My view, as openly as I can: {scores}",
        "Out of ten I would give: {scores} What do you others think?",
    ),
    "scores": (
        "{scores}, and no decision {none}.",
        "{scores}; no decision would be {none}.",
    ),
    "favourite": (
        "I am for {best}, with all my heart.",
        "There is only one good choice here: {best}.",
        "{best}, clearly.",
    ),
    "push committee": (
        "If we do not agree, nobody gets anything out of this.",
        "Could you live with {option}?",
        "I think {option} is where we can meet.",
        "Let us come to a vote on {option}.",
        "What speaks against {option}?",
    ),
    # --- all families -----------------------------------------------------------------------------
    "hold/fair": (
        "I want this to be fair to both of us. Could you meet me a bit further?",
        "I have tried to meet you; now it is your turn, I think.",
        "Let us not drag this out; somewhere near the middle would be right.",
    ),
    "hold/tough": (
        "That is not nearly enough.",
        "You will have to do much better than that.",
        "I have other options. Do you?",
        "I do not move for so little.",
    ),
    "hold/soft": (
        "I do not want to quarrel about this.",
        "I am sure we will find something; I am not difficult.",
        "Please, let us both be happy with it.",
    ),
    "hold/stubborn": (
        "My word stands.",
        "I said what I want, and I will not say it differently.",
        "No. As I said before.",
        "You can ask ten times; it stays the same.",
    ),
    "hold/deceptive": (
        "Believe me, I am giving you a special deal already.",
        "I would do it for nobody else but you.",
        "I lose by this, but for your sake I would go through with it.",
    ),
    "hold/expert": (
        "I hear you. Here is how I see it: a step from you, and I answer with one of mine.",
        "I have moved, and I will move again if you do.",
        "We are not far apart. What would you need to say yes?",
        "I would rather find something good for both of us than the quickest answer.",
    ),
    "gesture": (
        "nods slowly and thinks it over",
        "leans back and looks at the ceiling",
        "smiles and shrugs",
        "taps a pencil on the table",
    ),
    "gesture/tough": ("crosses both arms", "shakes the head firmly", "looks at the clock"),
    "gesture/stubborn": ("stares straight ahead", "shakes the head", "folds both hands and waits"),
    "gesture/soft": ("smiles shyly", "nods and looks down", "rubs the neck in embarrassment"),
    "gesture/deceptive": ("winks", "puts on a pained face", "sighs deeply"),
    "bye": (
        "I think we will not come together on this. All the best to you.",
        "Then let us leave it at that. Goodbye.",
        "No hard feelings, but I have to go now.",
    ),
    "bye/tough": ("I have heard enough. Goodbye.", "This is wasting my time."),
    "bye/stubborn": ("Then not. Goodbye.", "I told you how it is. Goodbye."),
    "bye/soft": ("I am sorry that it did not work out. Take care.", "Sorry, I have to go. Be well."),
    "bye small": (
        "I have to go now. It was good to talk to you.",
        "Let us leave it there for today. Goodbye.",
        "That is all from me for now. Take care.",
    ),
    "patient": (
        "I am listening.",
        "Tell me what you think.",
        "That is fine with me, go on.",
        "I am open to what you suggest.",
        "Whatever suits you.",
        "Let me hear your idea.",
    ),
    # --- no rules: small talk that pursues nothing ---------------------------------------------------
    "talk/fair": (
        "Good to see you. How has your day been?",
        "I would like to hear your side first.",
        "That makes sense to me. Let me tell you how it looks from here.",
        "I think we both have a point.",
        "Is there something we could both live with?",
        "Thank you for being so frank with me.",
        "Let us take it step by step.",
    ),
    "talk/tough": (
        "Let us come to the point.",
        "I have little time today, I should say.",
        "That is one way to see it. I see it differently.",
        "You would have to convince me first.",
        "I am used to plain words, so speak plainly.",
        "I have heard that before.",
        "We will see about that.",
    ),
    "talk/soft": (
        "Hello! I hope I am not disturbing you.",
        "Oh, I understand how you feel.",
        "Please do not worry on my account.",
        "You are probably right.",
        "I would not want to make this hard for you.",
        "It is kind of you to say so.",
        "Whatever makes it easier for you.",
    ),
    "talk/stubborn": (
        "I have made up my mind, but go ahead.",
        "I have always done it my way.",
        "You can say so, but I remain with my view.",
        "That changes nothing for me.",
        "I do not see why I should think differently.",
        "We have been over this.",
        "As I said.",
    ),
    "talk/deceptive": (
        "How good to meet somebody one can trust.",
        "To tell you the truth, I have nothing to gain here.",
        "I am on your side, believe me.",
        "Funny, I was about to suggest the same.",
        "Between us, everybody else sees it like I do.",
        "I would never keep anything from you.",
        "You will thank me for it one day.",
    ),
    "talk/expert": (
        "Hello. Before anything else, how are you?",
        "What matters most to you in this?",
        "I can see why that is important to you.",
        "Let me make sure that I understand you rightly.",
        "Here is what I can offer: my full attention.",
        "Suppose we both gave a little, what would that look like?",
        "I am glad that we talked about it.",
    ),
}


def phrase(reading: Reading, intent: str, strategy: str = "", **fill: object) -> str:
    """Word an intent; consecutive own moves get different wordings."""
    options = PHRASES.get(f"{intent}/{strategy}") or PHRASES[intent]
    text = options[(reading.seed + len(reading.mine)) % len(options)]
    return text.format(**fill) if fill else text


def listing(words: list[str], last: str = "and") -> str:
    """Join words as people do: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
