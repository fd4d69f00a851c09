//! What callers say: built in, or read from a file. Knows no wire.

use serde::Deserialize;

use crate::callers::Words;

/// The texts of one language, from a short answer to a paragraph.
struct Language {
    code: &'static str,
    texts: &'static [&'static str],
}

const BUILT_IN: &[Language] = &[
    Language { code: "eng", texts: ENGLISH },
    Language { code: "spa", texts: SPANISH },
    Language { code: "fra", texts: FRENCH },
    Language { code: "ger", texts: GERMAN },
];

const ENGLISH: &[&str] = &[
    "Sure, one moment please.",
    "Your appointment is on Thursday at half past two.",
    "I found three flights for that day. The first one leaves at seven in the morning and costs two hundred and ten dollars.",
    "Thank you for calling. To help you as quickly as possible, could you tell me the number on the back of your card, and the date of birth of the account holder?",
    "The technician will come between eight and noon. Please make sure that someone is at home, that the router can be reached, and that any dog is kept in another room while the work is being done.",
    "I understand that the parcel has not arrived, and I am sorry about that. It left our warehouse on Monday, was scanned in the sorting centre on Tuesday night, and has not been seen since, so I will send you a new one today, free of charge.",
];

const SPANISH: &[&str] = &[
    "Claro, un momento por favor.",
    "Su cita es el jueves a las dos y media de la tarde.",
    "Encontré tres vuelos para ese día. El primero sale a las siete de la mañana y cuesta doscientos diez dólares.",
    "Gracias por llamar. Para ayudarle lo antes posible, ¿podría decirme el número que está en el reverso de su tarjeta y la fecha de nacimiento del titular de la cuenta?",
    "El técnico llegará entre las ocho y el mediodía. Por favor, asegúrese de que haya alguien en casa, de que se pueda llegar al equipo y de que los perros estén en otra habitación mientras se hace el trabajo.",
];

const FRENCH: &[&str] = &[
    "Bien sûr, un instant s'il vous plaît.",
    "Votre rendez-vous est jeudi à quatorze heures trente.",
    "J'ai trouvé trois vols pour ce jour-là. Le premier part à sept heures du matin et coûte deux cent dix euros.",
    "Merci de votre appel. Pour vous aider au plus vite, pourriez-vous me donner le numéro au dos de votre carte, ainsi que la date de naissance du titulaire du compte ?",
    "Le technicien passera entre huit heures et midi. Merci de vous assurer que quelqu'un est présent, que l'appareil est accessible et que les chiens restent dans une autre pièce pendant les travaux.",
];

const GERMAN: &[&str] = &[
    "Gern, einen Moment bitte.",
    "Ihr Termin ist am Donnerstag um halb drei.",
    "Ich habe drei Flüge für diesen Tag gefunden. Der erste geht um sieben Uhr morgens und kostet zweihundertzehn Euro.",
    "Danke für Ihren Anruf. Damit ich Ihnen schnell helfen kann: Wie lautet die Nummer auf der Rückseite Ihrer Karte, und wann ist der Inhaber des Kontos geboren?",
    "Der Techniker kommt zwischen acht und zwölf Uhr. Bitte sorgen Sie dafür, dass jemand zu Hause ist, dass das Gerät gut zu erreichen ist und dass Hunde während der Arbeiten in einem anderen Zimmer bleiben.",
];

/// The codes of the languages that are built in.
#[must_use]
pub fn languages() -> Vec<&'static str> {
    BUILT_IN.iter().map(|language| language.code).collect()
}

/// The built-in texts of a language; with its code in each, unless it is English, which every engine takes for granted.
///
/// # Errors
/// No such language is built in.
pub fn built_in(code: &str) -> Result<Vec<Words>, String> {
    let found = BUILT_IN.iter().find(|language| language.code == code);
    let language = found.ok_or_else(|| {
        format!(
            "there are no built-in texts in {code:?}, but in {}; others come from a file",
            languages().join(", ")
        )
    })?;
    let lang = (code != "eng").then(|| code.to_owned());
    let words = |text: &&str| Words { lang: lang.clone(), ..Words::from(*text) };
    Ok(language.texts.iter().map(words).collect())
}

/// A line of JSON Lines. Whatever else was recorded is ignored.
#[derive(Debug, Deserialize)]
struct Recorded {
    text: String,
    lang: Option<String>,
    speaker: Option<String>,
}

/// Reads texts, one a line: plain, or JSON Lines if the first line is an object. Empty lines are left out.
///
/// # Errors
/// A line of JSON Lines that has no `text`, with its number; or no texts at all.
pub fn read(content: &str) -> Result<Vec<Words>, String> {
    let lines = content.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
    let is_json = lines.first().is_some_and(|(_, line)| line.starts_with('{'));
    let words = lines.into_iter().map(|(number, line)| {
        if !is_json {
            return Ok(Words::from(line));
        }
        let Recorded { text, lang, speaker } =
            serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
        if text.trim().is_empty() {
            return Err(format!("line {number}: the text is empty"));
        }
        Ok(Words { text, lang, speaker })
    });
    let words = words.collect::<Result<Vec<_>, String>>()?;
    if words.is_empty() { Err("there are no texts in it".to_owned()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_short_and_long_texts() {
        for code in languages() {
            let lengths: Vec<_> =
                built_in(code).unwrap().iter().map(|words| words.text.chars().count()).collect();
            assert!(lengths.iter().min().unwrap() < &40 && lengths.iter().max().unwrap() > &180, "{code}");
        }
        assert!(built_in("tlh").unwrap_err().contains("eng, spa, fra, ger"));
    }

    #[test]
    fn a_file_is_plain_lines_or_json_lines() {
        let texts = |content| read(content).map(|words| words.into_iter().map(|words| words.text).collect());
        assert_eq!(texts("One.\n\n Two.\r\n"), Ok(vec!["One.".to_owned(), "Two.".to_owned()]));
        let recorded = read(
            r#"{"text":"Hola.","lang":"spa","at":7}
            {"text":"Hi.","speaker":"astra"}"#,
        );
        let expected = [
            Words { lang: Some("spa".to_owned()), ..Words::from("Hola.") },
            Words { speaker: Some("astra".to_owned()), ..Words::from("Hi.") },
        ];
        assert_eq!(recorded.unwrap(), expected);
        assert!(texts("{\"text\":\"One.\"}\n{\"txt\":1}").unwrap_err().starts_with("line 2: "));
        assert!(texts("{\"text\":\" \"}").unwrap_err().starts_with("line 1: "));
        assert!(texts(" \n").is_err());
    }
}
